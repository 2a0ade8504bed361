"""What Ray says of its configs, `python -m tests.ray_serve FILE…`: a JSON object, each file with why it is refused, or
with nothing. In a process of its own, since Ray changes the logging of all. vLLM is not asked what it says of
`engine_kwargs`.
"""

import json
import logging
import sys
from pathlib import Path
from unittest.mock import MagicMock

import yaml


def main(files: list[str]) -> None:
    logging.disable()
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    sys.modules["pyarrow"] = sys.modules["pyarrow.fs"] = (
        MagicMock()
    )  # 170 MB, only to read weights from a cloud's store
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

    said = {}
    for file in files:
        try:
            for application in ServeDeploySchema(**yaml.safe_load(Path(file).read_text(encoding="utf-8"))).applications:
                for model in application.args["llm_configs"]:
                    LLMConfig(**model)
            said[file] = ""
        except ValidationError as error:
            said[file] = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
