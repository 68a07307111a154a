"""A device that is not there: it computes on the CPU, but refuses what a GPU would refuse, and notes what waits for it.

An operation on its tensors and on tensors of the CPU fails, as it does on a GPU, but for single numbers and for the
positions of an indexing. What a program reads, counts or copies is noted, because it waits for a GPU there.

torch asks a device that it does not know for little more than its name. `FakeTensorMode` would not do: it has no values
to decide by, and no gradients where torch was built for CUDA and there is no GPU.
"""

import contextlib

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from locdiff.sphere import healpix, spherical_harmonics

DEVICE = "pretended"
aten = torch.ops.aten
READS = {  # what the program waits for, to know a value or the size of the result
    aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default,
    aten._unique2.default, aten.unique_dim.default, aten.masked_select.default, aten.repeat_interleave.Tensor,
    aten.bincount.default,
}  # fmt: skip
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
NO_VIEW = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}  # of values
CACHES = (healpix.healpix_transform, healpix.rings, spherical_harmonics._recurrence)


class _Backend:
    """What torch asks of the module of a device."""

    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])
    _lazy_init = staticmethod(lambda: None)
    get_rng_state = staticmethod(lambda device: torch.get_rng_state())  # its numbers are those of the CPU
    set_rng_state = staticmethod(lambda state, device: None)


_register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
if _register:  # before the first gradient of the process, for which torch counts its devices
    _register(DEVICE, _Backend)
needs_pretended_device = pytest.mark.skipif(_register is None, reason="this torch has no devices in Python")


class Elsewhere(torch.Tensor):
    """A tensor on the device; `values` is the tensor of the CPU that it stands for."""

    @staticmethod
    def __new__(cls, values):
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        return cls._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device=f"{DEVICE}:0", **layout)

    def __init__(self, values):
        self.values = values

    def __repr__(self):
        return f"Elsewhere({tuple(self.shape)}, {self.dtype})"

    def numpy(self, **_):
        raise TypeError(f"cannot convert a tensor of the device {DEVICE} to numpy: use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        raise RuntimeError(f"{function} outside of pretended_device()")


class PretendedDevice(TorchDispatchMode):
    """Sends operations to the CPU; `waits` are the names of those that a program would wait for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        function, options = NO_VIEW.get(function, function), dict(options or {})
        with self:  # into what is made of other operations
            if function is spherical_harmonics.OPERATION:
                return spherical_harmonics._harmonics(*arguments)
            out = function.decompose(*arguments, **options)
        if out is not NotImplemented:
            return out
        tensors = [part for part in tree_leaves((arguments, options)) if isinstance(part, torch.Tensor)]
        there, asked = [isinstance(part, Elsewhere) for part in tensors], options.get("device")
        goes_there = any(there) if asked is None else torch.device(asked).type == DEVICE
        if function in COPIES:
            goes_there = there[0] if function is aten.copy_.default else goes_there
            self._note_copy(arguments, options, goes_there, there[-1])
        elif any(there):
            self._check(function, arguments, tensors)
        if asked is not None:
            options["device"] = torch.device("cpu")
        out = function(*_values(arguments), **_values(options))
        if not goes_there or function is aten._local_scalar_dense.default:
            return out
        out = tree_map_only(torch.Tensor, Elsewhere, out)
        return return_and_correct_aliasing(function, arguments, options, out) if any(there) else out

    def _note_copy(self, arguments, options, goes_there, comes_from_there):
        """Note a copy between the devices, but for one to the device that need not be waited for."""
        ahead = options.get("non_blocking") or (len(arguments) > 2 and arguments[2])
        if goes_there != comes_from_there and not (goes_there and ahead):
            self.waits.append("copy")

    def _check(self, function, arguments, tensors):
        """Note what is waited for; raise what a GPU raises for tensors of the CPU among its own."""
        left = [part for part in tensors if not isinstance(part, Elsewhere)]
        indexing = function in INDEXING and isinstance(arguments[0], Elsewhere)
        positions = [part for part in arguments[1] if part is not None] if indexing else []
        if function in READS or any(part.dtype == torch.bool for part in positions):
            self.waits.append(str(function))
        elif any(not isinstance(part, Elsewhere) for part in positions):
            self.waits.append("copy")
        if indexing:
            left = [part for part in left if all(part is not position for position in positions)]
        if any(part.ndim or not (indexing or torch.Tag.pointwise in function.tags) for part in left):
            found = ", ".join(f"{part.device} {tuple(part.shape)}" for part in tensors)
            raise RuntimeError(f"{function}: expected all tensors to be on the same device, got {found}")


def _values(tree):
    return tree_map_only(Elsewhere, lambda part: part.values, tree)


@contextlib.contextmanager
def pretended_device():
    """Let there be the device DEVICE for as long as this lasts; yield the list of what is waited for."""
    lifts, overwrites = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    _forget()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with PretendedDevice() as mode:
            yield mode.waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        torch._C._set_only_lift_cpu_tensors(lifts)
        _forget()


def _forget():
    for cache in CACHES:
        cache.cache_clear()
