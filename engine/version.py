"""Yiwen's version, and nothing else. What shows it reads it here; a release is a tag of this name."""

VERSION = "1.0.0"
