// mmvmamba::AddNorm, the operation add_norm of rowwise.h. ort_add_norm.c documents its inputs and attributes. The second
// output, the sum, exists if something is added to x.
#pragma once

#include "ov_operator.hpp"

namespace mmvmamba {

class AddNorm : public Operator {
  public:
    OPENVINO_OP("AddNorm", "mmvmamba");
    static std::vector<std::string> input_names() { return {"x", "weight", "shift", "residual", "bias"}; }

    AddNorm() = default;
    AddNorm(const ov::OutputVector &arguments, std::vector<std::string> inputs, int64_t version, double epsilon,
            int64_t rms)
        : Operator(arguments, std::move(inputs), version), m_epsilon(epsilon), m_rms(rms) {
        constructor_validate_and_infer_types();
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &arguments) const override {
        return std::make_shared<AddNorm>(arguments, m_inputs, m_version, m_epsilon, m_rms);
    }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        visitor.on_attribute("epsilon", m_epsilon);
        visitor.on_attribute("rms", m_rms);
        return Operator::visit_attributes(visitor);
    }

  protected:
    std::vector<ov::PartialShape> infer(const std::vector<ov::PartialShape> &shapes) const override {
        const ov::PartialShape &x = shapes[0];
        ov::Dimension channels;
        if (x.rank().is_static()) {
            if (!x.size() || x.size() > 5 || is_zero(x[x.size() - 1]))
                fail("x is " + describe(x) + ", expected 1 to 5 dimensions and at least one channel.");
            channels = x[x.size() - 1];
        }
        std::string context = "x " + describe(x);
        for (const char *input : {"weight", "shift", "bias"}) check_shape(input, shapes, {channels}, context);
        check_shape("residual", shapes, x, context);
        return adds() ? std::vector<ov::PartialShape>{x, x} : std::vector<ov::PartialShape>{x};
    }

    void compute(const ov::TensorVector &inputs, ov::TensorVector &outputs) const override {
        norm_args args = {};
        args.pool = arena_pool();
        args.channels = int64_t(inputs[0].get_shape().back());
        args.rows = int64_t(inputs[0].get_size()) / args.channels;
        args.x = inputs[0].data<const float>();
        args.residual = data_of("residual", inputs);
        args.bias = data_of("bias", inputs);
        args.weight = data_of("weight", inputs);
        args.shift = data_of("shift", inputs);
        args.epsilon = float(m_epsilon);
        args.rms = m_rms;
        args.sum = adds() ? outputs[1].data<float>() : nullptr;
        args.y = outputs[0].data<float>();
        add_norm(&args);
    }

  private:
    bool adds() const { return has("residual") || has("bias"); }

    double m_epsilon = 0;
    int64_t m_rms = 0;
};

} // namespace mmvmamba
