"""Operations on arrays: in place, with the right results, and what they refuse."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from kernlet_accel import Session

Floats = npt.NDArray[np.float32]


def matrix(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def test_a_product_is_numpys(session: Session) -> None:
    a, b, c = matrix(7, 5, 1), matrix(5, 9, 2), matrix(7, 9, 3)
    expected = 0.5 * (a @ b) - 2.0 * c
    result = session.sgemm(a, b, c, alpha=0.5, beta=-2.0)
    assert result is c
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-5)


def test_a_product_is_written_in_place_without_a_copy(session: Session) -> None:
    a, b, c = matrix(64, 32, 1), matrix(32, 48, 2), np.zeros((64, 48), np.float32)
    address = c.ctypes.data
    result = session.sgemm(a, b, c)
    assert result.ctypes.data == address
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)
    assert session.last_report is not None
    assert session.last_report.bytes_copied == 0


def test_rows_of_a_matrix_may_lie_apart_and_what_is_between_stays(session: Session) -> None:
    wide_a, wide_b, wide_c = matrix(6, 20, 1), matrix(12, 20, 2), np.full((6, 20), 7, np.float32)
    a, b, c = wide_a[:, 3:7], wide_b[::3, 2:12], wide_c[:, 5:15]
    session.sgemm(a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)
    assert (wide_c[:, :5] == 7).all() and (wide_c[:, 15:] == 7).all()


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1), (1, 5, 1), (5, 1, 1)])
def test_products_of_any_size_are_numpys(session: Session, m: int, n: int, k: int) -> None:
    a, b = matrix(m, k, 1), matrix(k, n, 2)
    np.testing.assert_allclose(session.sgemm(a, b), a @ b, rtol=1e-5)


def test_what_is_not_a_number_spreads_as_in_numpy(session: Session) -> None:
    a = np.array([[np.nan, 1], [np.inf, 1e-42]], np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(session.sgemm(a, np.eye(2, dtype=np.float32)), a @ np.eye(2, dtype=np.float32))


def test_what_c_held_is_not_read_when_beta_is_zero(session: Session) -> None:
    c = np.full((2, 2), np.nan, np.float32)
    session.sgemm(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32), c)
    assert (c == 1).all()


def test_other_owners_of_memory_than_numpy_work(session: Session) -> None:
    memory = bytearray(16)
    c = memoryview(memory).cast("f", (2, 2))
    session.sgemm(np.eye(2, dtype=np.float32), np.full((2, 2), 3, np.float32), c)  # type: ignore[arg-type]
    assert np.frombuffer(memory, np.float32).tolist() == [3, 3, 3, 3]


class TestWrongMatrices:
    """Each is refused with what is wrong, and nothing is written."""

    def refused(self, session: Session, error: type[Exception], words: str, **other: object) -> None:
        arguments: dict[str, object] = {"a": matrix(4, 4), "b": matrix(4, 4), "c": np.full((4, 4), 9, np.float32)}
        arguments |= other
        with pytest.raises(error, match=words):
            session.sgemm(**arguments)  # type: ignore[arg-type]
        c = arguments["c"]
        if isinstance(c, np.ndarray) and c.dtype == np.float32:
            assert (c == 9).all()

    @pytest.mark.parametrize("name", ["a", "b"])
    @pytest.mark.parametrize("wrong", [None, 3, "abcd", [[1.0]], object()], ids=repr)
    def test_what_is_no_array_is_refused_by_name(self, session: Session, name: str, wrong: object) -> None:
        self.refused(session, TypeError, f"{name} must be an array", **{name: wrong})

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.complex64, ">f4"])
    @pytest.mark.parametrize("name", ["a", "b", "c"])
    def test_another_element_type_is_refused_by_name(self, session: Session, name: str, dtype: npt.DTypeLike) -> None:
        self.refused(session, TypeError, f"^{name} ", **{name: np.zeros((4, 4), dtype)})

    def test_a_read_only_result_is_refused(self, session: Session) -> None:
        c = np.full((4, 4), 9, np.float32)
        c.flags.writeable = False
        self.refused(session, ValueError, "c is read-only", c=c)

    @pytest.mark.parametrize(
        "arrange",
        [lambda m: m.T, lambda m: m[:, ::-1], lambda m: m[::-1], lambda m: np.broadcast_to(m[:1], (4, 4)), np.asfortranarray],
        ids=["transposed", "columns-backwards", "rows-backwards", "broadcast", "fortran"],
    )
    def test_a_layout_that_is_not_rows_is_refused_with_what_to_do(
        self, session: Session, arrange: Callable[[Floats], Floats]
    ) -> None:
        self.refused(session, ValueError, "numpy.ascontiguousarray", a=arrange(matrix(4, 4)))

    @pytest.mark.parametrize("shape", [(4,), (4, 4, 1), ()])
    def test_what_is_no_matrix_is_refused(self, session: Session, shape: tuple[int, ...]) -> None:
        self.refused(session, ValueError, "must be a matrix", a=np.zeros(shape, np.float32))

    @pytest.mark.parametrize(("name", "shape"), [("a", (4, 3)), ("b", (5, 4)), ("c", (4, 5)), ("c", (0, 0))])
    def test_sizes_that_do_not_fit_are_named(self, session: Session, name: str, shape: tuple[int, int]) -> None:
        array = np.full(shape, 9, np.float32)
        self.refused(session, ValueError, "do not fit each other", **{name: array})

    def test_a_result_that_overlaps_an_argument_is_refused(self, session: Session) -> None:
        both = np.full((4, 4), 9, np.float32)
        self.refused(session, ValueError, "shares memory", a=both, c=both)
        self.refused(session, ValueError, "shares memory", b=both, c=both)
        long = np.full(40, 9, np.float32)
        self.refused(session, ValueError, "shares memory", a=long[:16].reshape(4, 4), c=long[8:24].reshape(4, 4))
        # Beside each other is well.
        session.sgemm(long[:16].reshape(4, 4), matrix(4, 4), long[16:32].reshape(4, 4))

    def test_one_matrix_may_be_both_factors(self, session: Session) -> None:
        a = matrix(4, 4)
        np.testing.assert_allclose(session.sgemm(a, a), a @ a, rtol=1e-4, atol=1e-5)

    def test_unaligned_memory_is_refused(self, session: Session) -> None:
        c = np.frombuffer(bytearray(65), np.uint8)[1:].view(np.float32).reshape(4, 4)
        c[:] = 9
        self.refused(session, ValueError, "not aligned", c=c)

    def test_a_factor_of_a_result_that_is_not_given_is_refused(self, session: Session) -> None:
        with pytest.raises(ValueError, match="which is not given"):
            session.sgemm(matrix(2, 2), matrix(2, 2), beta=1.0)

    @pytest.mark.parametrize("name", ["alpha", "beta"])
    def test_a_factor_that_is_no_number_is_refused(self, session: Session, name: str) -> None:
        self.refused(session, TypeError, name, **{name: "two"})

    @pytest.mark.parametrize("timeout", [-1, -0.0001, float("nan"), float("inf"), 1e300])
    def test_a_timeout_that_is_none_is_refused(self, session: Session, timeout: float) -> None:
        self.refused(session, ValueError, "timeout", timeout=timeout)


def test_an_array_is_its_callers_again_when_the_operation_is_over(session: Session) -> None:
    c = bytearray(16)
    view = memoryview(c).cast("f", (2, 2))
    session.sgemm(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), view)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        session.sgemm(np.eye(2, dtype=np.float32), None, view)  # type: ignore[arg-type]
    view.release()
    c.clear()
    array = np.zeros((2, 2), np.float32)
    session.sgemm(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), array)
    array.resize((100, 100), refcheck=True)


def test_an_enormous_array_that_is_none_is_refused_without_being_touched(session: Session) -> None:
    enormous = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**31, 2**29), (0, 4))
    with pytest.raises(ValueError, match="numpy.ascontiguousarray"):
        session.sgemm(enormous, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
