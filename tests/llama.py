"""llama.cpp's own server in a process, `python -m tests.llama FILE.gguf SLOTS [PORT]`: it says its address and lives
until its input ends. And the file, which has a tokenizer and a chat template, as whoever serves with llama.cpp has it.
"""

import json
import sys
from pathlib import Path

CONTEXT_TOKENS = 1_024  # of a slot


def write_gguf(folder: Path, target: Path) -> None:
    """A checkpoint of any kind in fp16, with all that is around a model."""
    import torch  # and what follows: the server needs none of it, and starts in half a second without

    from engine.inference import checkpoint
    from engine.tools import bench_gguf

    model = checkpoint.load_model(folder, checkpoint.read_config(folder), torch.float32, "cpu")
    writer = bench_gguf.begun(model.config, target)
    _write_tokenizer(writer, folder, model.config.vocab_size)
    for name, tensor in bench_gguf.tensors(model):
        writer.add_tensor(name, (tensor.half() if tensor.ndim > 1 else tensor.float()).numpy())
    bench_gguf.finish(writer)


def _write_tokenizer(writer, folder: Path, size: int) -> None:
    from gguf import TokenType

    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = {id: f"<unused {id}>" for id in range(size)} | {id: name for name, id in said["model"]["vocab"].items()}
    kinds = {id: TokenType.UNUSED if name.startswith("<unused") else TokenType.NORMAL for id, name in names.items()}
    for token in said["added_tokens"]:
        names[token["id"]] = token["content"]
        kinds[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    ids = {name: id for id, name in names.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")  # which parts words as our pattern does
    writer.add_token_list([names[id] for id in range(size)])
    writer.add_token_types([kinds[id] for id in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in said["model"]["merges"]])
    writer.add_bos_token_id(ids[settings["bos_token"]])
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])


def main(file: str, slots: str, port: str = "0") -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {Path(file).stem}
    params.n_parallel = int(slots)
    params.n_ctx = CONTEXT_TOKENS * int(slots)
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1  # for a model this small threads only wait for each other
    params.port = int(port)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
