#!/usr/bin/env bash
# One would guess that a detector that gives back the true boxes has an average precision of 1, and that the `id` of an
# annotation is a name. In fact COCOeval keeps the id of the matched annotation in an array and later asks whether it is
# zero: the match with the annotation whose id is 0 counts as a miss, and its detection as a false one. Two images with
# one object each, ids 0 and 1: 0.25. Ids 1 and 2: 1.0. One image with one object: 0.0. pycocotools 2.0.11.
# It matters to people who measure grounding and detection with it because annotations numbered by enumerate() begin
# with 0. On a large set the loss is small enough to stay unseen; in a metric of one image each, used as a reward, every
# image whose first object is id 0 loses it.
# Upstream: known (cocodataset/cocoapi issues 507 and 664, open); faster_coco_eval keeps the figures, and warns since its
# pull request 81.
# Seen here: 0.252 for ids 0 and 1, 1.0 for 1 and 2, 0.0 for a single object with id 0, 1.0 for it with id 1.
set -euo pipefail
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
python3 -m venv "$T/venv"
"$T/venv/bin/pip" install -qq pycocotools==2.0.11 numpy==2.4.6
cd "$T"
"$T/venv/bin/python" - <<'PY'
import contextlib
import io
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def perfect(images, first):
    box = [10, 10, 50, 50]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number, "width": 100, "height": 100} for number in range(images)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": first + number, "image_id": number, "category_id": 1, "bbox": box, "area": 2500,
                         "iscrowd": 0} for number in range(images)],
    }
    truth.createIndex()
    found = truth.loadRes([{"image_id": number, "category_id": 1, "bbox": box, "score": 0.9}
                           for number in range(images)])
    scored = COCOeval(truth, found, "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    return float(scored.stats[0])


with contextlib.redirect_stdout(io.StringIO()):
    two = perfect(2, 0), perfect(2, 1)
    one = perfect(1, 0), perfect(1, 1)
print(f"two objects, all found: {two[0]:.3f} with ids from 0, {two[1]:.3f} from 1; "
      f"one object: {one[0]:.3f} with id 0, {one[1]:.3f} with id 1")
if not (two[0] < 0.3 and two[1] > 0.99 and one[0] < 0.01 and one[1] > 0.99):
    sys.exit("The behaviour differs from the description: the id 0 is matched as any other.")
PY
