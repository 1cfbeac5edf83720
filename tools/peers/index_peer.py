"""faiss, hnswlib and usearch, the peers of `tools/bench_index.py`; speaks `serving`'s JSON lines.

A process holds one index. All search by inner product and use as many threads as it is told to. A search takes all
queries in one call, which is each library's batch interface, or goes through them one by one; it gives row numbers
[Q, k], -1 where fewer were found.
"""

import importlib.metadata
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve


class FaissHnsw:
    """Settings: `m`, `ef_construction`, `storage` (`Flat`, or `SQ8` for a byte a coordinate)."""

    def __init__(self, vectors: np.ndarray, threads: int, seed: int, m: int, ef_construction: int, storage: str):
        import faiss  # pyright: ignore[reportMissingImports]

        del seed  # faiss numbers its levels from a fixed one
        faiss.omp_set_num_threads(threads)
        self._index = faiss.index_factory(vectors.shape[1], f"HNSW{m}_{storage}", faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = ef_construction
        self._index.train(vectors)
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        self._index.hnsw.efSearch = ef
        return self._index.search(queries, k)[1]


class FaissIvfPq:
    """4-bit product quantisation searched by fast-scan, candidates re-ranked by float32 vectors.

    Settings: `cells`; `dims_per_code`, coordinates that share a code; `residual`, whether codes are of what is left
    after the cell's centre.
    """

    def __init__(self, vectors: np.ndarray, threads: int, seed: int, cells: int, dims_per_code: int, residual: bool):
        import faiss  # pyright: ignore[reportMissingImports]

        faiss.omp_set_num_threads(threads)
        codes = vectors.shape[1] // dims_per_code
        key = f"IVF{cells},PQ{codes}x4fs{'r' if residual else ''},RFlat"
        self._index = faiss.index_factory(vectors.shape[1], key, faiss.METRIC_INNER_PRODUCT)
        faiss.downcast_index(self._index.base_index).cp.seed = seed
        self._index.train(vectors)
        self._index.add(vectors)
        self._parameters = faiss.SearchParametersIVF, faiss.IndexRefineSearchParameters

    def search(self, queries: np.ndarray, k: int, cells: int, candidates: int) -> np.ndarray:
        ivf, refine = self._parameters
        return self._index.search(
            queries, k, params=refine(k_factor=candidates / k, base_index_params=ivf(nprobe=cells))
        )[1]


class Hnswlib:
    """Settings: `m`, `ef_construction`."""

    def __init__(self, vectors: np.ndarray, threads: int, seed: int, m: int, ef_construction: int):
        import hnswlib  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

        count, width = vectors.shape
        self._index = hnswlib.Index(space="ip", dim=width)
        self._index.init_index(max_elements=count, ef_construction=ef_construction, M=m, random_seed=seed)
        self._index.set_num_threads(threads)
        self._index.add_items(vectors)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        self._index.set_ef(ef)
        return self._index.knn_query(queries, k)[0]


class Usearch:
    """Settings: `m`, `ef_construction`, `dtype` of the vectors kept (`f32`, `bf16`, `i8`)."""

    def __init__(self, vectors: np.ndarray, threads: int, seed: int, m: int, ef_construction: int, dtype: str):
        from usearch.index import Index as UsearchIndex  # pyright: ignore[reportMissingImports]

        del seed  # it takes none
        count, width = vectors.shape
        self._threads = threads
        self._index = UsearchIndex(
            ndim=width,
            # The byte of `i8` is scaled by the vector's length, which only the cosine divides by again.
            metric="cos" if dtype == "i8" else "ip",
            dtype=dtype,
            connectivity=m,
            expansion_add=ef_construction,
            enable_key_lookups=False,
        )
        self._index.add(np.arange(count), vectors, threads=threads)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        self._index.expansion_search = ef
        if len(queries) == 1:
            keys = self._index.search(queries[0], k, threads=1).keys[None]
        else:
            keys = self._index.search(queries, k, threads=self._threads).keys
        return keys.astype(np.int64)


KINDS: dict[str, Any] = {
    "faiss HNSW": FaissHnsw,
    "faiss IVF-PQ": FaissIvfPq,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
}
state: dict[str, Any] = {}


def load(corpus: str, queries: str, threads: int) -> dict[str, Any]:
    """Two .npy files of float32 vectors."""
    state.update(corpus=np.load(corpus), queries=np.load(queries), threads=threads)
    return {}


def build(kind: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    begun = time.perf_counter()
    state["index"] = KINDS[kind](state["corpus"], state["threads"], seed, **settings)
    return {"seconds": time.perf_counter() - begun}


def search(k: int, parameters: dict[str, int], found: str) -> dict[str, Any]:
    """Writes what each query finds to a .npy file, [Q, k]."""
    np.save(Path(found), state["index"].search(state["queries"], k, **parameters))
    return {}


def measure(k: int, parameters: dict[str, int], at_least: float) -> dict[str, Any]:
    """Goes over the queries until that many seconds have passed."""
    queries, passes, begun, seconds = state["queries"], 0, time.perf_counter(), 0.0
    while not passes or seconds < at_least:
        state["index"].search(queries, k, **parameters)
        passes, seconds = passes + 1, time.perf_counter() - begun
    return {"seconds": seconds, "count": passes * len(queries)}


def measure_single(k: int, parameters: dict[str, int], count: int) -> dict[str, Any]:
    queries = state["queries"][:count]
    begun = time.perf_counter()
    for i in range(len(queries)):
        state["index"].search(queries[i : i + 1], k, **parameters)
    return {"seconds": time.perf_counter() - begun, "count": len(queries)}


def versions() -> dict[str, Any]:
    """Of what is installed; a build with another raises ImportError."""
    installed = {item.name: item.version for item in importlib.metadata.distributions()}
    return {name: installed[name] for name in ("faiss-cpu", "hnswlib", "usearch") if name in installed}


if __name__ == "__main__":
    serve(
        {
            "versions": versions,
            "load": load,
            "build": build,
            "search": search,
            "measure": measure,
            "measure_single": measure_single,
        }
    )
