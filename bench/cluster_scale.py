"""K-means, PCA and assignment beside faiss and scikit-learn; memory of the pass over an archive.

    python bench/cluster_scale.py kmeans            200,000 x 384, 2,000 clusters, equal iterations
    python bench/cluster_scale.py pca               200,000 x 384 to 64 components
    python bench/cluster_scale.py assign            share of the machine's own float32 matrix product
    python bench/cluster_scale.py memory MILLIONS   peak memory of `cluster` over a made archive
    python bench/cluster_scale.py duplicates MILLIONS   pairs of near hashes

Points are a mixture of Gaussians on the sphere, from a seed. CPU seconds of the whole process, both
threads; sides take turns, and the median of the rounds' ratios is given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedica.archive import Archive, Done
from biomedica.cluster import ClusterSettings, cluster
from biomedica.cluster.kmeans import Moments, nearest, principal_components, train
from biomedica.duplicates import near_pairs
from biomedica.features import FeatureSet, ShardFeatures, create_set, figures_digest
from biomedica.shards import WrittenFile

Points = NDArray[np.float32]
NUMBER, DIMS, CLUSTERS, ITERATIONS, ROUNDS = 200_000, 384, 2_000, 10, 3


def points(number: int, dims: int, seed: int = 0) -> Points:
    """(number, dims): 3,000 clouds on the sphere, of unequal sizes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3000, dims)).astype(np.float32)
    shares = rng.pareto(1.5, size=3000) + 0.05
    chosen = rng.choice(3000, size=number, p=shares / shares.sum())
    found = centres[chosen] + 1.2 * rng.standard_normal((number, dims), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found, dtype=np.float32)


def cpu(function: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its CPU seconds."""
    started = time.process_time()
    found = function()
    return found, time.process_time() - started


def inertia(data: Points, centroids: Points) -> float:
    """Mean squared distance to the nearest centroid."""
    return float(np.mean(np.square(nearest(data, centroids)[1], dtype=np.float64)))


def against_faiss() -> dict[str, Any]:
    """Both start from random rows; faiss counts its first assignment as an iteration, so do we."""
    import faiss

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    data = points(NUMBER, DIMS)
    rounds = []
    for seed in range(ROUNDS):
        ours, our_cpu = cpu(lambda seed=seed: train(data, CLUSTERS, ITERATIONS, seed))

        def theirs(seed: int = seed) -> Any:
            found = faiss.Kmeans(
                DIMS, CLUSTERS, niter=ITERATIONS, seed=seed + 1, max_points_per_centroid=10**9
            )
            found.train(data)
            return found.centroids

        peer, peer_cpu = cpu(theirs)
        rounds.append((our_cpu, peer_cpu, inertia(data, ours.centroids_KP), inertia(data, peer)))
    return {
        "our_cpu": round(statistics.median(each[0] for each in rounds), 1),
        "faiss_cpu": round(statistics.median(each[1] for each in rounds), 1),
        "cpu_ratio": round(statistics.median(each[0] / each[1] for each in rounds), 2),
        "our_inertia": round(statistics.mean(each[2] for each in rounds), 5),
        "faiss_inertia": round(statistics.mean(each[3] for each in rounds), 5),
        "inertia_ratio": round(statistics.mean(each[2] / each[3] for each in rounds), 4),
    }


def against_scikit_learn() -> dict[str, Any]:
    """Exact components by both; ours in float16 files' manner, block by block."""
    from sklearn.decomposition import PCA

    data = points(NUMBER, DIMS)

    def ours() -> float:
        moments = Moments.empty(DIMS)
        moments.add(data)
        return principal_components(moments, 64).explained

    def theirs() -> float:
        return float(
            PCA(64, svd_solver="covariance_eigh").fit(data).explained_variance_ratio_.sum()
        )

    rounds = [(cpu(ours), cpu(theirs)) for _ in range(2 * ROUNDS)]
    return {
        "our_explained": round(rounds[0][0][0], 6),
        "sklearn_explained": round(rounds[0][1][0], 6),
        "our_cpu": round(statistics.median(each[0][1] for each in rounds), 2),
        "sklearn_cpu": round(statistics.median(each[1][1] for each in rounds), 2),
        "cpu_ratio": round(statistics.median(each[0][1] / each[1][1] for each in rounds), 2),
    }


def against_matrix_product() -> dict[str, Any]:
    """Rate of assignment against a bare product of the same matrices, by wall time, taking turns."""
    data = points(NUMBER // 4, DIMS)
    centroids = data[:CLUSTERS].copy()
    transposed = np.ascontiguousarray(centroids.T)
    block = np.empty((4096, CLUSTERS), dtype=np.float32)

    def product() -> None:
        for start in range(0, len(data), 4096):
            rows = data[start : start + 4096]
            np.matmul(rows, transposed, out=block[: len(rows)])

    def wall(function: Callable[[], Any]) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    product(), nearest(data, centroids)
    rounds = [(wall(product), wall(lambda: nearest(data, centroids))) for _ in range(9)]
    work = 2 * len(data) * CLUSTERS * DIMS / 1e9
    return {
        "product_gflops": round(work / statistics.median(each[0] for each in rounds), 1),
        "assign_gflops": round(work / statistics.median(each[1] for each in rounds), 1),
        "share": round(statistics.median(each[0] / each[1] for each in rounds), 3),
    }


def made_archive(root: Path, num_shards: int, dims: int, rows: int = 10_000) -> Archive:
    """Finished shards with keys and features, and nothing else; a hundred of them differ."""
    archive = Archive(root)
    archive.create()
    archive.write_info({"source": "made"})
    info = {"kind": "image", "encoder": "made", "digest": "0" * 64, "dims": dims}
    features = create_set(archive, "made", info)
    for number in range(num_shards):
        shard = f"commercial-{number:06d}"
        path = root / "figures" / "commercial" / f"{shard}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = [f"PMC{number * rows + row}-1-f1" for row in range(rows)]
        pq.write_table(pa.table({"key": keys}), path)
        size = path.stat().st_size
        file = WrittenFile(f"figures/commercial/{shard}.parquet", size, f"{number:064x}")
        done = Done(
            task=shard, group="commercial", inputs="", settings="", counts={"pairs": rows},
            rejects={}, outputs=(file,), seconds=0.0, cpu_seconds=0.0,
        )  # fmt: skip
        archive.write_done(done)
        _features(features, shard, done, number, rows, dims)
    return archive


def _features(
    features: FeatureSet, shard: str, done: Done, number: int, rows: int, dims: int
) -> None:
    noted = ShardFeatures(figures=figures_digest(done), encoder="0" * 64, rows=rows, bad=())
    if number < 100:
        features.write(shard, points(rows, dims, number).astype(np.float16), noted)
        return
    features.write(shard, np.zeros((0, dims), np.float16), noted)
    path = features.folder / f"{shard}.npy"
    path.unlink()
    path.hardlink_to(features.folder / f"commercial-{number % 100:06d}.npy")


def memory(millions: float) -> dict[str, Any]:
    """Peak of training, assigning and summing up over so many rows (in a process of its own)."""
    num_shards = round(millions * 100)
    with tempfile.TemporaryDirectory() as folder:
        archive = made_archive(Path(folder) / "archive", num_shards, 64)
        child = os.fork()
        if child == 0:
            started = time.monotonic()
            features = FeatureSet.open(archive, "made")
            cluster(archive, features, ClusterSettings(clusters=200))
            taken = round(time.monotonic() - started, 1)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            (Path(folder) / "found").write_text(json.dumps({"seconds": taken, "peak_mb": peak}))
            os._exit(0)
        os.waitpid(child, 0)
        found = json.loads((Path(folder) / "found").read_text())
    return {"rows": num_shards * 10_000, **found}


def near_hashes(millions: float) -> dict[str, Any]:
    """Time and peak memory of finding pairs within 3 bits; a tenth of the hashes is near another."""
    number = round(millions * 1e6)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, size=number, dtype=np.uint64)
    planted = number // 10
    hashes[:planted] = hashes[planted : 2 * planted] ^ np.uint64(0b1010000001)
    digests = np.arange(number, dtype=np.uint64)
    (left, _), spent = cpu(lambda: near_pairs(hashes, digests, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "hashes": number,
        "planted": planted,
        "found": len(left),
        "cpu_seconds": round(spent, 1),
        "peak_mb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kmeans", "pca", "assign", "memory", "duplicates"])
    parser.add_argument("millions", nargs="?", type=float, default=1.0)
    words = parser.parse_args()
    found = {
        "kmeans": against_faiss,
        "pca": against_scikit_learn,
        "assign": against_matrix_product,
        "memory": lambda: memory(words.millions),
        "duplicates": lambda: near_hashes(words.millions),
    }[words.what]()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
