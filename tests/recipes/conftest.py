"""What the tests of the recipe share."""

import pytest

from recipes.small.voices import Flite
from sdhubert_ray.errors import UserError


@pytest.fixture(scope="session")
def flite():
    try:
        return Flite()
    except UserError as error:
        pytest.skip(str(error))
