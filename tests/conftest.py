"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def packs_of_tests_stay_with_the_tests(tmp_path_factory):
    """Packs of folders that tests open do not go into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOCAPFREE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
