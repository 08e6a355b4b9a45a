"""What all tests share."""

import os

import pytest
from hypothesis import settings

# A test run draws the same cases every time; HYPOTHESIS_PROFILE=explore draws new ones (and keeps what failed).
settings.register_profile("ci", derandomize=True, database=None)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Files that take longest, the longest first. Each is done by one process (xdist's loadfile), in the order of collection:
# the longest begin when the others still have work for the second process.
LONGEST = (
    "lab", "experiment", "parallel", "recipes", "ddpo", "commands", "playground", "algorithms", "solvers", "regularisers",
    "second_corpus", "run_settings", "browser", "fuzz", "exploration", "study_page",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The files of `LONGEST` before all others, whose order stays."""
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def packs_of_tests_stay_with_the_tests(tmp_path_factory):
    """Packs of folders that tests open do not go into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOCAPFREE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
