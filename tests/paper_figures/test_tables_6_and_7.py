"""Tables 6 and 7: they run, and say what the numbers say."""

import numpy as np
import pytest
import table_6
import table_7
from figure_4a import cramer_rao_km
from methods.location_encoders import ENCODERS
from support.figures import holds, make, numbers


@pytest.fixture(scope="module")
def made(cache, tmp_path_factory):
    """The output folder of the two tables at their smallest scale."""
    return make(tmp_path_factory.mktemp("encoders"), "table_6", "table_7")


@pytest.mark.parametrize(
    ("table", "rows"),
    [(table_6, 2 * len(ENCODERS)), (table_7, len(ENCODERS) - 1 + len(table_7.DEGREES))],
)
def test_a_table_has_a_row_for_every_encoder(table, rows, made, tmp_path):
    result = numbers(made, table.__name__)
    assert table.key_numbers(result) and table.draw(result, tmp_path)[0].count("\n|") == rows + 2


def test_table_7_drifts_of_shdd_are_at_the_bound(made):
    result = numbers(made, "table_7")
    drifts = result["drifts"][[name.startswith("SHDD") for name in result["names"].tolist()]]
    bound = [cramer_rao_km(degree) for degree in table_7.DEGREES]
    np.testing.assert_allclose(drifts[:, 1], bound, rtol=0.06)
    np.testing.assert_allclose(drifts[:, 2], np.array(bound) / np.sqrt(4 * np.pi), rtol=0.06)
    assert (drifts[:, 0] < 0.1).all()


def test_table_6_says_what_the_hits_say():
    names = list(ENCODERS)
    right = np.zeros((len(names), 200, 5), dtype=bool)
    right[names.index("SHDD"), :100] = True
    papers, others = table_6.claims(names, right)
    assert papers.holds and others.holds and others.ours == "level with none; behind none"
    right[names.index("xyz")] = True
    papers, others = table_6.claims(names, right)
    assert papers.holds and not others.holds and "behind xyz" in others.ours
    right[names.index("rbf"), :100] = True
    papers, others = table_6.claims(names, right)
    assert not papers.holds and "rbf" not in papers.ours and "level with rbf;" in others.ours


def test_table_7_says_what_the_drifts_say():
    names, drifts = ["rbf", "Sphere2Vec-sphereM", "SHDD, L = 31"], np.array([[10, 90, 80], [10, 80, 70], [0, 5, 2.0]])
    assert holds(table_7.claims(names, drifts)) == [True, True, True]
    drifts[1, 1:], drifts[0, 0] = 4, 60
    assert holds(table_7.claims(names, drifts)) == [True, False, False]
