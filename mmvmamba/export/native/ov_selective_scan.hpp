// mmvmamba::SelectiveScan2D, the scan of scan.h in float32. ort_selective_scan.c documents its inputs and attributes.
#pragma once

#include <cstring>

#include "ov_operator.hpp"

namespace mmvmamba {

class SelectiveScan2D : public Operator {
  public:
    OPENVINO_OP("SelectiveScan2D", "mmvmamba");
    static std::vector<std::string> input_names() { return {"x", "projected", "A", "D", "dt_bias", "dt_weight"}; }

    SelectiveScan2D() = default;
    SelectiveScan2D(const ov::OutputVector &arguments, std::vector<std::string> inputs, int64_t version,
                    std::vector<int64_t> codes, int64_t softplus)
        : Operator(arguments, std::move(inputs), version), m_codes(std::move(codes)), m_softplus(softplus) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &arguments) const override {
        return std::make_shared<SelectiveScan2D>(arguments, m_inputs, m_version, m_codes, m_softplus);
    }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        visitor.on_attribute("codes", m_codes);
        visitor.on_attribute("softplus", m_softplus);
        return Operator::visit_attributes(visitor);
    }

  protected:
    std::vector<ov::PartialShape> infer(const std::vector<ov::PartialShape> &shapes) const override {
        for (int64_t code : m_codes)
            if (code < 0 || code > (SCAN_COLUMN | SCAN_REVERSED))
                fail("the attribute codes contains " + std::to_string(code) + ", expected 0 to " +
                     std::to_string(SCAN_COLUMN | SCAN_REVERSED) + ".");
        const ov::PartialShape &x = shapes[0], &projected = shapes[1], &A = shapes[2];
        if (x.rank().is_dynamic()) return {ov::PartialShape::dynamic(4)};
        if (x.size() != 4 && x.size() != 5) fail("x is " + describe(x) + ", expected (b, H, W, d) or (b, K, H, W, d).");
        if (!A.rank().compatible(3)) fail("A is " + describe(A) + ", expected (K, d, n).");
        auto K = int64_t(m_codes.size());
        ov::Dimension b = x[0], H = x[x.size() - 3], W = x[x.size() - 2], d = x[x.size() - 1];
        if (is_zero(H) || is_zero(W) || is_zero(d))
            fail("x is " + describe(x) + ", expected at least one position and one channel.");
        ov::Dimension n = A.rank().is_static() ? A[2] : ov::Dimension(), r = rank(shapes);
        if (is_zero(n) || is_zero(r))
            fail("A is " + describe(A) + " and dt_weight " + describe(shapes.back()) +
                 ", expected a state size and a rank of at least 1.");
        ov::Dimension c = r + n + n;
        std::string context = "x " + describe(x) + ", A " + describe(A) + ", a rank of " +
                              (r.is_static() ? std::to_string(r.get_length()) : "?") + " and " + std::to_string(K) +
                              " traversals";
        check_shape("A", shapes, {K, d, n}, context);
        if (x.size() == 5) check_shape("x", shapes, {b, K, H, W, d}, context);
        bool side_by_side = projected.rank().is_static() && projected.size() == 4;
        check_shape("projected", shapes,
                    side_by_side ? ov::PartialShape{b, H, W, c * K} : ov::PartialShape{b, K, H, W, c}, context);
        check_shape("D", shapes, {K, d}, context);
        check_shape("dt_bias", shapes, {K, d}, context);
        check_shape("dt_weight", shapes, {K, d, r}, context);
        return {{b, H, W, d}};
    }

    void compute(const ov::TensorVector &inputs, ov::TensorVector &outputs) const override {
        ov::Tensor &output = outputs[0];
        const ov::Shape &x = inputs[0].get_shape(), &projected = inputs[1].get_shape(), &y = output.get_shape();
        auto K = int64_t(m_codes.size()), d = int64_t(y[3]), n = int64_t(inputs[2].get_shape()[2]);
        int64_t r = has("dt_weight") ? int64_t(inputs[index_of("dt_weight")].get_shape()[2]) : d;
        scan_map channels = map_of(inputs[1].data<const float>(), projected);
        if (projected.size() == 4) channels.traversal = channels.col / K;
        auto channels_from = [&](int64_t channel) {
            scan_map map = channels;
            map.data = static_cast<float *>(map.data) + channel;
            return map;
        };
        int64_t padded = (d + SCAN_CHANNEL_UNIT - 1) / SCAN_CHANNEL_UNIT * SCAN_CHANNEL_UNIT;
        size_t positions = output.get_size() / y[3];
        std::unique_ptr<float[]> buffer;
        if (padded != d) {
            buffer.reset(new (std::nothrow) float[positions * size_t(padded)]);
            check_memory(!buffer);
        }
        scan_args args = {};
        args.batch = int64_t(y[0]);
        args.height = int64_t(y[1]);
        args.width = int64_t(y[2]);
        args.channels = d;
        args.states = n;
        args.rank = has("dt_weight") ? r : 0;
        args.traversals = K;
        args.shared_x = x.size() == 4;
        args.softplus = m_softplus != 0;
        args.threads = arena_threads();
        args.pool = arena_pool();
        args.codes = m_codes.data();
        args.x = map_of(inputs[0].data<const float>(), x);
        args.dt = channels_from(0);
        args.B = channels_from(r);
        args.C = channels_from(r + n);
        args.A = inputs[2].data<const float>();
        args.D = data_of("D", inputs);
        args.bias = data_of("dt_bias", inputs);
        args.weight = data_of("dt_weight", inputs);
        args.y = buffer ? buffer.get() : output.data<float>();
        check_memory(scan_forward(&args));
        for (size_t i = 0; buffer && i < positions; i++)
            std::memcpy(output.data<float>() + i * y[3], &buffer[i * size_t(padded)], y[3] * sizeof(float));
    }

  private:
    // The channels of the step size, before dt_weight expands them.
    ov::Dimension rank(const std::vector<ov::PartialShape> &shapes) const {
        if (!has("dt_weight")) return shapes[0][shapes[0].size() - 1];
        const ov::PartialShape &weight = shapes[index_of("dt_weight")];
        if (weight.rank().is_dynamic()) return {};
        return weight.size() == 3 ? weight[2] : ov::Dimension(0);
    }

    std::vector<int64_t> m_codes;
    int64_t m_softplus = 1;
};

} // namespace mmvmamba
