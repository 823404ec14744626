"""Names of the number formats that people choose: as options and torch have them, to what safetensors files say."""

FLOATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
