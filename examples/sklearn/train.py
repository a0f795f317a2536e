"""A trainer without PyTorch: logistic regression on the pixels of a zip of class folders."""

import hashlib
import io
import json
import os
import zipfile

import boto3
import joblib
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

env = os.environ
s3, bucket, prefix = boto3.client("s3"), env["PUSHTRAIN_BUCKET"], env["PUSHTRAIN_RUN_PREFIX"]
files = {}


def read(archive, split):
    """Give the pixels and class names of one part: grey, 16x16, from 0 to 1."""
    names = [n for n in archive.namelist() if n.startswith(f"{split}/") and not n.endswith("/")]
    images = [Image.open(archive.open(name)).convert("L").resize((16, 16)) for name in names]
    return np.stack([np.ravel(i) / 255 for i in images]), [n.split("/")[1] for n in names]


def publish(name, body):
    """Write a file under the run's prefix, and remember what the manifest says of it."""
    s3.put_object(Bucket=bucket, Key=prefix + name, Body=body)
    files[name] = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


version = {"VersionId": env["PUSHTRAIN_DATA_VERSION"]}
data = s3.get_object(Bucket=bucket, Key=env["PUSHTRAIN_DATA_KEY"], **version)["Body"].read()
with zipfile.ZipFile(io.BytesIO(data)) as archive:
    train, test = read(archive, "train"), read(archive, "test")
model = LogisticRegression(C=float(env.get("PUSHTRAIN_PARAM_C", "1")), max_iter=1000).fit(*train)
accuracy = model.score(*test)
print(f"test accuracy {accuracy:.3f} on {len(test[1])} images", flush=True)

joblib.dump(model, body := io.BytesIO())
publish("model.joblib", body.getvalue())
manifest = {"version": 1, "run": env["PUSHTRAIN_RUN"], "model": "model.joblib", "files": files}
publish("manifest.json", json.dumps({**manifest, "metrics": {"accuracy": accuracy}}).encode())
