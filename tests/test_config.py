"""Flags and variables: what wins, what is refused, and in which words."""

from dataclasses import fields

import pytest

from engine.config import Config
from engine.errors import ConfigError


def test_without_flags_the_embedded_model_runs_on_this_machine_alone() -> None:
    config = Config.load([], {})
    assert (config.model, config.backend, config.host, config.port) == ("embedded", "auto", "127.0.0.1", 7860)
    assert (config.max_concurrent, config.max_waiting, config.max_text_tokens) == (None, 256, 200_000)


def test_a_flag_beats_its_variable_which_beats_the_default() -> None:
    environ = {"YIWEN_PORT": "8001", "YIWEN_LOG_LEVEL": "debug", "HOME": "/root"}
    config = Config.load(["--port", "8002"], environ)
    assert (config.port, config.log_level, config.host) == (8002, "debug", "127.0.0.1")


def test_every_field_is_a_flag_and_a_variable() -> None:
    value = {"port": "1", "max_concurrent": "2", "max_waiting": "3", "max_text_tokens": "4", "max_upload_mb": "5"}
    value |= {"devices": "cuda:1", "max_vram_gb": "7.5", "kv_dtype": "fp8", "kv_window": "512", "deterministic": "true"}
    value |= {"max_ram_gb": "12"}
    value |= {"requests_per_minute": "6", "tokens_per_minute": "7", "max_per_client": "8", "grace_seconds": "9"}
    value |= {"trusted_proxies": "10.0.0.0/8", "allowed_hosts": "a.example", "allowed_origins": "https://a.example"}
    value |= {
        "remote_url": "http://localhost:8000",
        "split": "tensor",
        "accept_licence": "true",
        "log_format": "json",
        "backend": "echo",
        "precision": "int8",
        "root_path": "/yiwen/",
        "log_level": "error",
    }
    for field in fields(Config):
        text = value.get(field.name, "there")
        by_flag = Config.load([f"--{field.name.replace('_', '-')}", text], {})
        assert by_flag == Config.load([], {f"YIWEN_{field.name.upper()}": text}) != Config()


def test_a_flag_with_several_values_may_come_several_times() -> None:
    urls = "http://one:8000", "https://two/v1"
    assert Config.load([f"--remote-url={urls[0]}", f"--remote-url={urls[1]}"], {}).remote_url == urls
    assert Config.load([], {"YIWEN_REMOTE_URL": ", ".join(urls)}).remote_url == urls


def test_a_switch_needs_no_value_as_a_flag_and_may_have_one() -> None:
    assert Config.load(["--deterministic", "--port", "1"], {}).deterministic is True
    assert Config.load(["--deterministic", "false"], {"YIWEN_DETERMINISTIC": "true"}).deterministic is False
    assert Config.load([], {"YIWEN_DETERMINISTIC": "true"}).deterministic is True


def test_what_is_off_by_default_can_be_said_to_be_off() -> None:
    chosen = Config.load(["--kv-window", "off", "--max-vram-gb", "auto", "--max-concurrent", "auto"], {})
    assert chosen == Config()
    assert Config.load(["--kv-window=1024", "--max-vram-gb=7.5"], {}).kv_window == 1024


def test_an_empty_variable_is_an_unset_one() -> None:
    assert Config.load([], {"YIWEN_PORT": "", "YIWEN_MODEL": ""}) == Config()


def test_a_path_prefix_ends_without_a_slash() -> None:
    assert Config.load(["--root-path", "/tools/yiwen/"], {}).root_path == "/tools/yiwen"


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["--prot", "1"], {}, "Unknown flag --prot; did you mean --port?"),
        (["--log=debug"], {}, "Unknown flag --log; did you mean --log-level?"),
        (["serve"], {}, "Unknown flag serve"),
        ([], {"YIWEN_PROT": "1"}, "Unknown variable YIWEN_PROT; did you mean YIWEN_PORT?"),
        (["--port"], {}, "--port"),
        (["--port", "99999"], {}, "--port is '99999'; it must be a whole number from 0 to 65535."),
        ([], {"YIWEN_PORT": "http"}, "YIWEN_PORT is 'http'; it must be a whole number"),
        (["--precision", "int3"], {}, "--precision is 'int3'; choose one of: auto, fp32, bf16, fp16, int8, int4."),
        (["--backend", "vllm"], {}, "choose one of: auto, local, onnx, remote, echo."),
        (["--remote-url", "localhost:8000"], {}, "it must be an address such as http://localhost:8000"),
        (
            ["--max-vram-gb", "lots"],
            {},
            "--max-vram-gb is 'lots'; it must be auto or a number of gigabytes such as 24 or 7.5.",
        ),
        (["--max-vram-gb", "0"], {}, "auto or a number of gigabytes"),
        (["--max-vram-gb", "nan"], {}, "auto or a number of gigabytes"),
        (["--kv-dtype", "fp16"], {}, "choose one of: auto, bf16, fp8."),
        (["--kv-window", "1"], {}, "--kv-window is '1'; it must be off or a whole number from 64 to 262144."),
        ([], {"YIWEN_DETERMINISTIC": "yes"}, "YIWEN_DETERMINISTIC is 'yes'; it must be true or false."),
        (["--deterministic", "serve"], {}, "--deterministic is 'serve'; it must be true or false."),
        (["--devices", "gpu"], {}, "it must be auto, all, cpu, a card such as cuda:0, several such as cuda:0,cuda:1,"),
        (["--devices", "cpu+cuda:0"], {}, "cards joined by + for one model on all of them."),
        (["--devices", "cuda:0+cuda:1,cuda:1"], {}, "it must name each card once."),
        (["--split", "rows"], {}, "choose one of: auto, layers, tensor."),
        (["--max-concurrent", "0"], {}, "auto or a whole number from 1"),
        (["--max-waiting", "-1"], {}, "--max-waiting"),
        (["--root-path", "yiwen"], {}, "a path such as /yiwen."),
        (["--model", ""], {}, "--model is ''; it may not be empty."),
    ],
)
def test_what_is_unknown_or_unfit_is_named(argv: list[str], environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(argv, environ)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        Config.load(["--help"], {})
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert all(f"--{field.name.replace('_', '-')}" in shown for field in fields(Config))
    assert "None" not in shown
    assert "(default: off)" in " ".join(shown.split())
