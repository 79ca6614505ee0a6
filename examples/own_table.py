from pathlib import Path

import pyarrow.parquet as pq

from rankwell.models.wide_deep import WideDeep
from rankwell.schema import Action, Categorical, Cross, Numeric, Schema
from rankwell.serving.bundle import Bundle
from rankwell.serving.ranker import Ranker
from rankwell.training.own_table import recipe_of_table
from rankwell.training.trained import judge, train

table = pq.read_table("clicks.parquet")  # or a pandas or polars data frame: one row a job shown
member = (Categorical(name="title", on="request"), Numeric(name="years", on="request"))
job = (Categorical(name="job"), Categorical(name="job_title"))
cross, click = Cross(of=("title", "job_title")), Action(name="click")
schema = Schema(features=(*member, *job), crosses=(cross,), actions=(click,), item="job", member_id=None)
recipe = recipe_of_table(table, schema, WideDeep, "jobs")
trained = train(recipe, Path("jobs"), seed=0)
test = judge(recipe, trained.model, trained.calibrators, Path("jobs")).calibrated
print(f"AUC {test.auc:.3f}, log loss {test.log_loss:.3f}, predicted / observed {test.calibration_ratio:.3f}")
ranker = Ranker(Bundle(model=trained.model, calibrators=trained.calibrators, created_us=0))
request = {"context": {"title": "cook", "years": 6}, "candidates": {"job": [1, 2], "job_title": ["cook", "pilot"]}}
print(ranker.rank(request).ranked)  # best first, with calibrated probabilities
