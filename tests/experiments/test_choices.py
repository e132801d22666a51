"""What may follow the colon of a config."""

import pytest

from common.errors import UserError
from experiments.configs.choices import read_choices

CHOICES = {"model": ("small", "large"), "data": ("text", "numbers"), "size": ("1", "2")}


def test_choices_are_read_by_name_or_by_value_alone():
    assert read_choices("", CHOICES) == {"model": "small", "data": "text", "size": "1"}
    found = read_choices("numbers,model=large", CHOICES)
    assert found == {"model": "large", "data": "numbers", "size": "1"}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("model=larg", "model is 'larg'; the nearest is large (of small, large)"),
        ("modle=large", "unknown choice 'modle'; choose model, data, size"),
        ("numbrs", "variant 'numbrs' is unknown; the nearest is numbers; write model=..., "),
        ("large,model=small", "model is chosen twice, as 'large' and 'small'"),
    ],
)
def test_mistakes_are_named(variant, message):
    with pytest.raises(UserError) as error:
        read_choices(variant, CHOICES)
    assert message in str(error.value)
