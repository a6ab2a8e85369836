"""Run in the environment of a service, `python used_device.py MODULE METHOD PARAMETERS`: what a network is computed on.

It prints what the framework itself says of the weights of a new network, to be compared with what a job recorded:
"CPU", or the name of a GPU.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from parfocal import v1
from parfocal.runtime.methods.service import load_service
from parfocal.runtime.store.facts import Facts


def main() -> None:
    module, method_name, parameters = sys.argv[1:]
    service = load_service(module)
    method = service.method(method_name)
    device, _ = service.device().choose("auto", len(method.axes), training=True)
    learner = method.load(device).build(method.parse(v1.JOB_KIND_TRAINING, json.loads(parameters)), Facts())
    sys.stdout.write(json.dumps({"torch": _torch, "tensorflow": _tensorflow}.get(service.framework, _numpy)(learner)))


def _torch(learner: Any) -> str:
    import torch

    (place,) = {weight.device for module in learner.modules.values() for weight in module.parameters()}
    return "CPU" if place.type == "cpu" else torch.cuda.get_device_name(place)


def _tensorflow(learner: Any) -> str:
    import tensorflow as tf

    # Keras 2 has TensorFlow's variables themselves.
    variables = [each if isinstance(each, tf.Variable) else each.value for each in learner.model.weights]
    (place,) = {variable.device for variable in variables}
    if "CPU" in place:
        return "CPU"
    (gpu,) = tf.config.get_visible_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpu)["device_name"])


def _numpy(learner: Any) -> str:
    assert learner.weights()
    return "CPU"


if __name__ == "__main__":
    main()
