"""AIME-120: AIME90 (2022-2024) and AIME 2025 as one task, `source: [AIME90, AIME 2025]`; each problem weighs the same."""

from ptqflow.evaluation.benchmarks.aime import item as item
from ptqflow.evaluation.benchmarks.aime import score as score
from ptqflow.evaluation.items import Benchmark

BENCHMARK = Benchmark("generation", published=120)
