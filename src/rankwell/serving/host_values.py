"""What a graph computes of sizes alone: values that ONNX Runtime keeps in the host's memory, and copies to a GPU.

It copies them without waiting, and may write the next value into the same place meanwhile: with ONNX Runtime 1.31 under
CUDA, a history of 50 events was divided by 51, the number of its places. A graph's outputs are never written over; as
outputs, all values of that kind are safe, whether somebody asks for them or not.
"""

from __future__ import annotations

from rankwell.serving.onnx_extra import onnx_module

__all__ = ["with_host_values"]


def with_host_values(graph: bytes) -> bytes:
    """The same graph, whose outputs are also what it computes of sizes alone, and of constants with them.

    Args:
        graph: Of `rankwell.serving.request_graph.request_graph`, or a cheaper one of the same.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    onnx = onnx_module("onnx")
    model = onnx.load_from_string(graph)
    constant = {initializer.name for initializer in model.graph.initializer} | {""}
    host = dict[str, None]()
    for node in model.graph.node:
        read = set(node.input)
        if node.op_type in ("Shape", "Size") or (read <= constant | host.keys() and not read <= constant):
            host |= dict.fromkeys(name for name in node.output if name)
        elif read <= constant:
            constant |= set(node.output)
    typed = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    given = {value.name for value in model.graph.output}
    # ONNX Runtime finds out by itself of what type an output is
    missing = (name for name in host if name not in given)
    model.graph.output.extend(typed.get(name, onnx.ValueInfoProto(name=name)) for name in missing)
    written: bytes = model.SerializeToString()
    return written
