"""Colours and type: ink on paper, one green. The rest of the look is static/yiwen.css. Fonts are the reader's own."""

import gradio as gr
from gradio.themes.utils.colors import Color

PINE = Color(
    name="pine",
    c50="#effaf6",
    c100="#d8f2e8",
    c200="#b3e3d2",
    c300="#7fcdb5",
    c400="#48b094",
    c500="#23917a",
    c600="#127463",  # white on it: 5.7 to 1
    c700="#0f5d50",
    c800="#0f4a41",
    c900="#0d3d36",
    c950="#062420",
)
INK = Color(
    name="ink",
    c50="#f7f8f8",
    c100="#eff1f1",
    c200="#e0e4e4",
    c300="#c8cfcf",
    c400="#8f9a9b",
    c500="#64706f",
    c600="#4b5656",
    c700="#374141",
    c800="#212929",
    c900="#161c1c",
    c950="#0e1313",
)
SANS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=PINE,
        secondary_hue=PINE,
        neutral_hue=INK,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_padding="0px",
        block_label_text_color="*neutral_500",
        block_label_text_color_dark="*neutral_400",
        block_title_text_color="*neutral_500",
        block_title_text_color_dark="*neutral_400",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )
