"""What people write first: a FastAPI handler around the model in PyTorch, features from arrays in memory.

    python fastapi_server.py BUNDLE once|per_candidate PORT

"per_candidate" asks the model as if each candidate were a request of its own, with the history in each; "once" gives it
the request as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI

sys.path.insert(0, str(Path(__file__).parents[1]))

from contenders.serving_world import NOW_US, NUM_EVENTS, feature_rows
from rankwell.schema import Categorical, Place
from rankwell.serving.bundle import read_bundle
from rankwell.types import Column, Events, Features

NUM_ITEMS, NUM_MEMBERS = 100_000, 20_000


def main() -> None:
    """Serve until killed."""
    bundle = read_bundle(sys.argv[1])
    per_candidate, port = sys.argv[2] == "per_candidate", int(sys.argv[3])
    torch.set_num_threads(1)
    schema, model = bundle.schema, bundle.model.eval()
    rows = feature_rows(NUM_ITEMS, NUM_MEMBERS)
    (sequence,) = schema.sequences
    history = {
        name: np.asarray(rows["members"][f"{sequence.name}_{name}"].values).reshape(-1, NUM_EVENTS)
        for name in [*(field.name for field in sequence.fields), sequence.time]
    }
    app = FastAPI()

    def features(table: str, on: str, places: Any) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for feature in schema.features:
            if feature.on != on:
                continue
            name = feature.column or feature.name
            of = rows[table]
            if isinstance(feature, Place):
                parts = [of[f"{name}_lat"][places], of[f"{name}_lon"][places]]
                columns[feature.name] = torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))
            else:
                kind = np.int64 if isinstance(feature, Categorical) else np.float32
                columns[feature.name] = torch.from_numpy(of[name][places].astype(kind))
        return columns

    @app.post("/v1/rank")
    def rank(request: dict[str, Any]) -> dict[str, Any]:
        items = np.array(request["candidates"]["job"])
        member = np.array([request["member_id"]])
        context, num = features("members", "request", member), len(items)
        events = {field.name: history[field.name][member[0]] for field in sequence.fields}
        events["age_s"] = ((NOW_US - history[sequence.time][member[0]]) / 1e6).astype(np.float32)
        offsets, request_C = torch.tensor([0, num]), torch.zeros(num, dtype=torch.int64)
        event_offsets = torch.tensor([0, NUM_EVENTS])
        if per_candidate:
            context = {name: column.repeat_interleave(num, 0) for name, column in context.items()}
            events = {name: np.tile(values, num) for name, values in events.items()}
            offsets, request_C = torch.arange(num + 1), torch.arange(num)
            event_offsets = torch.arange(num + 1) * NUM_EVENTS
        columns = {name: torch.from_numpy(values.copy()) for name, values in events.items()}
        asked = Features(
            context, {sequence.name: Events(columns, event_offsets)}, features("items", "candidate", items), offsets,
            request_C,
        )  # fmt: skip
        with torch.inference_mode():
            logits_CA = model(asked)
            segments_CS = torch.zeros(num, 0, dtype=torch.int64)
            p_CA = [
                bundle.calibrators[action.name](logits_CA[:, a], segments_CS) for a, action in enumerate(schema.actions)
            ]
        order = torch.argsort(p_CA[0], descending=True)[: request["length"]].tolist()
        return {
            "items": [
                {"item_id": int(items[i]), **{a.name: float(p_CA[k][i]) for k, a in enumerate(schema.actions)}}
                for i in order
            ]
        }

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
