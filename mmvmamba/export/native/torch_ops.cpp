/* Registers mmvmamba's operators with PyTorch's dispatcher, so that TorchScript files and AOTInductor packages run in C++
 * without Python: the forward pass on CPUs. It uses only PyTorch's stable ABI, so one build works with PyTorch 2.10 and
 * later. ../torch_ops_library.py compiles it. */
#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 10) << 48))

#include <dlfcn.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

extern "C" {
#include "conv.h"
#include "scan.h"
}

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;
using MaybeTensor = std::optional<Tensor>;

namespace {

/* Raises an error unless t has these sizes. */
void check(const char *name, const Tensor &t, const Sizes &sizes) {
    auto found = t.sizes();
    bool equal = found.size() == sizes.size() && std::equal(sizes.begin(), sizes.end(), found.begin());
    STD_TORCH_CHECK(equal, "mmvmamba: ", name, " has a shape that does not fit the other arguments.");
}

void check_backend(const std::string &name) {
    STD_TORCH_CHECK(name == "auto" || name == "native", "mmvmamba: the backend '", name,
                    "' needs Python: trace or export the model with the backend 'auto'.");
}

Tensor cast(const Tensor &t, ScalarType dtype) { return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype); }

/* A map that the kernels can read: in `dtype`, or in any type that they support, with contiguous channels. */
Tensor readable(const Tensor &t, bool any_dtype) {
    auto dtype = t.scalar_type();
    bool supported = any_dtype && (dtype == ScalarType::BFloat16 || dtype == ScalarType::Half);
    Tensor map = supported ? t : cast(t, ScalarType::Float);
    return map.stride(-1) == 1 || map.size(-1) == 1 ? map : torch::stable::contiguous(map);
}

/* Keeps the converted parameter in `owner` and returns its data. */
const float *parameter(const MaybeTensor &t, std::vector<Tensor> &owner) {
    if (!t) return nullptr;
    owner.push_back(torch::stable::contiguous(cast(*t, ScalarType::Float)));
    return static_cast<const float *>(owner.back().const_data_ptr());
}

/* The struct of a map (B, H, W, C) or (B, K, H, W, C). */
scan_map map_of(const Tensor &t) {
    auto dtype = t.scalar_type();
    int64_t code = dtype == ScalarType::BFloat16 ? SCAN_BFLOAT16
                   : dtype == ScalarType::Half   ? SCAN_FLOAT16
                                                 : SCAN_FLOAT32;
    int64_t traversal = t.dim() == 4 ? 0 : t.stride(1);
    return {t.mutable_data_ptr(), code, t.stride(0), traversal, t.stride(-3), t.stride(-2)};
}

Tensor selective_scan_2d(const Tensor &x, const Tensor &dt, const Tensor &A, const Tensor &B, const Tensor &C,
                         const MaybeTensor &D, const MaybeTensor &dt_bias, const MaybeTensor &dt_weight,
                         const Sizes &codes, bool softplus, std::optional<ScalarType> out_dtype,
                         const std::string &backend) {
    check_backend(backend);
    STD_TORCH_CHECK((x.dim() == 4 || x.dim() == 5) && dt.dim() == 5 && A.dim() == 3 && !codes.empty(),
                    "mmvmamba: x must be (b, H, W, d) or (b, K, H, W, d), dt (b, K, H, W, r) and A (K, d, n).");
    int64_t b = x.size(0), K = codes.size(), H = x.size(-3), W = x.size(-2), d = x.size(-1), n = A.size(2);
    int64_t rank = dt_weight ? dt.size(-1) : 0;
    check("x", x, x.dim() == 4 ? Sizes{b, H, W, d} : Sizes{b, K, H, W, d});
    check("dt", dt, {b, K, H, W, dt_weight ? rank : d});
    check("A", A, {K, d, n});
    check("B", B, {b, K, H, W, n});
    check("C", C, {b, K, H, W, n});
    if (D) check("D", *D, {K, d});
    if (dt_bias) check("dt_bias", *dt_bias, {K, d});
    if (dt_weight) check("dt_weight", *dt_weight, {K, d, rank});

    int64_t padded = (d + SCAN_CHANNEL_UNIT - 1) / SCAN_CHANNEL_UNIT * SCAN_CHANNEL_UNIT;
    Tensor y = torch::stable::empty({b, H, W, padded}, ScalarType::Float);
    if (y.numel() && n) {
        std::vector<Tensor> maps{readable(x, true), readable(dt, !rank), readable(B, false), readable(C, false)}, owner;
        scan_args args{};
        args.batch = b, args.height = H, args.width = W, args.channels = d, args.states = n, args.rank = rank;
        args.traversals = K, args.shared_x = x.dim() == 4, args.softplus = softplus, args.codes = codes.data();
        args.threads = torch::stable::get_num_threads();
        args.x = map_of(maps[0]), args.dt = map_of(maps[1]), args.B = map_of(maps[2]), args.C = map_of(maps[3]);
        args.A = parameter(A, owner), args.D = parameter(D, owner);
        args.bias = parameter(dt_bias, owner), args.weight = parameter(dt_weight, owner);
        args.y = static_cast<float *>(y.mutable_data_ptr());
        STD_TORCH_CHECK(!scan_forward(&args), "mmvmamba: the scan ran out of memory.");
    }
    Tensor out = padded == d ? y : torch::stable::narrow(y, 3, 0, d);
    return torch::stable::contiguous(cast(out, out_dtype.value_or(x.scalar_type())));
}

Tensor conv_silu(const Tensor &x, const Tensor &weight, const MaybeTensor &bias, const Sizes &left,
                 const std::string &backend) {
    check_backend(backend);
    STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4,
                    "mmvmamba: x must be (B, H, W, E), and weight (K, E, rows, columns).");
    int64_t b = x.size(0), K = left.size(), H = x.size(1), W = x.size(2), E = x.size(3);
    check("x", x, {b, H, W, E});
    check("weight", weight, {K, E, weight.size(2), weight.size(3)});
    if (bias) check("bias", *bias, {K, E});

    Tensor map = readable(x, true), y = torch::stable::empty({b, K, H, W, E}, map.scalar_type());
    if (y.numel()) {
        std::vector<Tensor> owner;
        conv_args args{};
        args.batch = b, args.height = H, args.width = W, args.channels = E, args.kernels = K;
        args.rows = weight.size(2), args.columns = weight.size(3), args.left = left.data();
        args.threads = torch::stable::get_num_threads();
        args.x = map_of(map), args.y = map_of(y);
        args.weight = parameter(weight, owner), args.bias = parameter(bias, owner);
        STD_TORCH_CHECK(!conv_forward(&args), "mmvmamba: the convolution ran out of memory.");
    }
    return cast(y, x.scalar_type());
}

/* Returns whether this is a Python process that has imported mmvmamba, which defines the same operators. */
bool python_defines_operators() {
    auto ensure = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"));
    auto release = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "PyGILState_Release"));
    auto initialized = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "Py_IsInitialized"));
    auto modules = reinterpret_cast<void *(*)()>(dlsym(RTLD_DEFAULT, "PyImport_GetModuleDict"));
    auto has_key = reinterpret_cast<int (*)(void *, const char *)>(dlsym(RTLD_DEFAULT, "PyMapping_HasKeyString"));
    if (!ensure || !release || !initialized || !modules || !has_key || !initialized()) return false;
    int state = ensure();
    bool found = has_key(modules(), "mmvmamba.ops");
    release(state);
    return found;
}

} // namespace

/* The schemas of ops/scan/scan_2d.py and ops/conv/conv_silu.py. */
STABLE_TORCH_LIBRARY_FRAGMENT(mmvmamba, library) {
    if (python_defines_operators()) return;
    library.def(
        "selective_scan_2d(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, "
        "Tensor? dt_weight, int[] codes, bool dt_softplus, ScalarType? out_dtype, str backend=\"auto\") -> Tensor");
    library.def("conv_silu(Tensor x, Tensor weight, Tensor? bias, int[] left, str backend=\"auto\") -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mmvmamba, CPU, library) {
    if (python_defines_operators()) return;
    library.impl("selective_scan_2d", TORCH_BOX(&selective_scan_2d));
    library.impl("conv_silu", TORCH_BOX(&conv_silu));
}
