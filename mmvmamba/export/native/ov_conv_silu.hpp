// mmvmamba::ConvSiLU, the depthwise convolution with SiLU of conv.h in float32. ort_conv_silu.c documents its inputs and
// attributes.
#pragma once

#include "ov_operator.hpp"

namespace mmvmamba {

class ConvSiLU : public Operator {
  public:
    OPENVINO_OP("ConvSiLU", "mmvmamba");
    static std::vector<std::string> input_names() { return {"x", "weight", "bias"}; }

    ConvSiLU() = default;
    ConvSiLU(const ov::OutputVector &arguments, std::vector<std::string> inputs, int64_t version,
             std::vector<int64_t> left)
        : Operator(arguments, std::move(inputs), version), m_left(std::move(left)) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &arguments) const override {
        return std::make_shared<ConvSiLU>(arguments, m_inputs, m_version, m_left);
    }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        visitor.on_attribute("left", m_left);
        return Operator::visit_attributes(visitor);
    }

  protected:
    std::vector<ov::PartialShape> infer(const std::vector<ov::PartialShape> &shapes) const override {
        ov::PartialShape x = shapes[0], weight = shapes[1];
        auto K = int64_t(m_left.size());
        if (!x.rank().compatible(4)) fail("x is " + describe(x) + ", expected (b, H, W, e).");
        if (x.rank().is_dynamic()) x = ov::PartialShape::dynamic(4);
        if (is_zero(x[1]) || is_zero(x[2]) || is_zero(x[3]))
            fail("x is " + describe(x) + ", expected at least one position and one channel.");
        if (weight.rank().is_dynamic()) weight = ov::PartialShape::dynamic(4);
        if (weight.size() != 4 || is_zero(weight[2]) || is_zero(weight[3]))
            fail("weight is " + describe(weight) +
                 ", expected (K, e, rows, columns) with at least one row and column.");
        std::string context = "x " + describe(x) + " and " + std::to_string(K) + " kernels";
        check_shape("weight", shapes, {K, x[3], weight[2], weight[3]}, context);
        check_shape("bias", shapes, {K, x[3]}, context);
        for (int64_t left : m_left)
            if (left < 0 || (weight[3].is_static() && left >= weight[3].get_length()))
                fail("the attribute left contains " + std::to_string(left) + ", expected 0 to " +
                     std::to_string(weight[3].get_length() - 1) + " for weight " + describe(weight) + ".");
        return {K == 1 ? x : ov::PartialShape{x[0], K, x[1], x[2], x[3]}};
    }

    void compute(const ov::TensorVector &inputs, ov::TensorVector &outputs) const override {
        ov::Tensor &output = outputs[0];
        const ov::Shape &x = inputs[0].get_shape(), &weight = inputs[1].get_shape();
        conv_args args = {};
        args.batch = int64_t(x[0]);
        args.height = int64_t(x[1]);
        args.width = int64_t(x[2]);
        args.channels = int64_t(x[3]);
        args.kernels = int64_t(weight[0]);
        args.rows = int64_t(weight[2]);
        args.columns = int64_t(weight[3]);
        args.threads = arena_threads();
        args.pool = arena_pool();
        args.left = m_left.data();
        args.x = map_of(inputs[0].data<const float>(), x);
        args.y = map_of(output.data<float>(), output.get_shape());
        args.weight = inputs[1].data<const float>();
        args.bias = data_of("bias", inputs);
        check_memory(conv_forward(&args));
    }

  private:
    std::vector<int64_t> m_left;
};

} // namespace mmvmamba
