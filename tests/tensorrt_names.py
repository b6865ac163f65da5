"""Which names the real bindings of TensorRT have, by version: `python -m delen.tests.tensorrt_names` writes them down.

Flow: each version's bindings are fetched without their libraries (gigabytes), loaded over empty ones compiled here, and
asked what they hold. The list is committed as `tensorrt_names.json`, and `test_tensorrt_names.py` holds the code to it.
No GPU and no TensorRT are needed; a network and a compiler are. The bindings' wheels are for Python up to 3.11.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = Path(__file__).with_name("tensorrt_names.json")
# 8.6 is the first with all that is used, 10.3 JetPack 6's, 11.4 the newest.
BINDINGS = {"8.6": "tensorrt_bindings==8.6.1", "10.3": "tensorrt-cu12-bindings==10.3.0"}
BINDINGS |= {"11.4": "tensorrt-cu13-bindings==11.4.0.106"}
CLASSES = (
    *("Builder", "IBuilderConfig", "INetworkDefinition", "OnnxParser", "ParserError", "IOptimizationProfile"),
    *("Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "IProgressMonitor", "BuilderFlag", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "PreviewFeature", "ExecutionContextAllocationStrategy"),
)
# What the bindings want of the libraries as they are loaded; none of it is called.
SYMBOLS = (
    *("createInferRuntime_INTERNAL", "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
    *("_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi"),
    *("_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv"),
)
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
ASK = """
import json, sys
import tensorrt_bindings as trt
held = {"": [name for name in dir(trt) if name[0] != "_"] + ["__version__"]}
for name in sys.argv[1:]:
    if hasattr(trt, name):
        held[name] = [each for each in dir(getattr(trt, name)) if each[0] != "_"]
print(json.dumps(held))
"""


def names_of(version: str) -> dict[str, list[str]]:
    """The module's names under "", and those of each class. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), BINDINGS[version]]
        subprocess.run([*pip, "--no-deps"], check=True)
        subprocess.run([*pip[:-1], "numpy"], check=True)
        source = folder / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
        for library in LIBRARIES:
            name = f"lib{library}.so.{version.partition('.')[0]}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
            subprocess.run(command, check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": scratch, "PYTHONPATH": scratch}
        done = subprocess.run(
            [sys.executable, "-c", ASK, *CLASSES], env=environment, check=True, capture_output=True, text=True
        )
    found: dict[str, list[str]] = json.loads(done.stdout)
    # Of the module only what could be used here: the rest is layers.
    found[""] = sorted(
        name for name in found[""] if name in (*CLASSES, "nptype", "__version__", "init_libnvinfer_plugins")
    )
    return {name: sorted(held) for name, held in found.items()}


def main() -> None:
    """Write the list anew."""
    NAMES.write_text(json.dumps({version: names_of(version) for version in BINDINGS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
