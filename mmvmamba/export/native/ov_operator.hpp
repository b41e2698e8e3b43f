// What the operators share: errors, attributes, shapes, and OpenVINO's threads.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "openvino/op/op.hpp"
#include "tbb/parallel_for.h"
#include "tbb/task_arena.h"

extern "C" {
#include "conv.h"
#include "rowwise.h"
#include "scan.h"
}

namespace mmvmamba {

// The version of the operators' inputs, attributes and results: VERSION in onnx_operators.py.
constexpr int64_t OPERATORS_VERSION = 2;

class Error : public ov::Exception {
  public:
    explicit Error(const std::string &sentence) : ov::Exception(sentence) {}
};

[[noreturn]] inline void fail(const std::string &operation, const std::string &sentence) {
    throw Error("mmvmamba::" + operation + ": " + sentence);
}

inline void check_version(const std::string &operation, int64_t version) {
    if (version != OPERATORS_VERSION)
        fail(operation, "the file contains version " + std::to_string(version) +
                            " of this operator, but the library implements version " +
                            std::to_string(OPERATORS_VERSION) +
                            "; export the model again, or use the library of the mmvmamba that exported it.");
}

// "(2, ?, 3)"
inline std::string describe(const ov::PartialShape &shape) {
    if (shape.rank().is_dynamic()) return "of unknown rank";
    std::string text = "(";
    for (const ov::Dimension &size : shape) {
        if (text.size() > 1) text += ", ";
        text += size.is_static() ? std::to_string(size.get_length()) : "?";
    }
    return text + (shape.size() == 1 ? ",)" : ")");
}

inline bool is_zero(const ov::Dimension &size) { return size.is_static() && size.get_length() == 0; }

// An operator whose inputs after the first ones are optional. A node has no gaps between its inputs, so the attribute
// `inputs` contains their names.
class Operator : public ov::op::Op {
  public:
    bool has_evaluate() const override { return true; }

    bool visit_attributes(ov::AttributeVisitor &visitor) override {
        visitor.on_attribute("version", m_version);
        visitor.on_attribute("inputs", m_inputs);
        return true;
    }

    void validate_and_infer_types() override {
        check_version(get_type_info().name, m_version);
        std::vector<ov::PartialShape> shapes;
        for (size_t i = 0; i < m_inputs.size(); i++) {
            ov::element::Type type = get_input_element_type(i);
            if (!type.compatible(ov::element::f32))
                fail(m_inputs[i] + " has the type " + type.to_string() + ", expected f32.");
            shapes.push_back(get_input_partial_shape(i));
        }
        std::vector<ov::PartialShape> found = infer(shapes);
        for (size_t i = 0; i < found.size(); i++) set_output_type(i, ov::element::f32, found[i]);
    }

    bool evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const override {
        std::vector<ov::PartialShape> shapes;
        for (const ov::Tensor &input : inputs) shapes.push_back(input.get_shape());
        std::vector<ov::PartialShape> found = infer(shapes);
        for (size_t i = 0; i < found.size(); i++) outputs[i].set_shape(found[i].to_shape());
        if (outputs[0].get_size()) compute(inputs, outputs);
        return true;
    }

  protected:
    Operator() = default;
    Operator(const ov::OutputVector &arguments, std::vector<std::string> inputs, int64_t version)
        : Op(arguments), m_inputs(std::move(inputs)), m_version(version) {}

    // The shapes of the outputs. Raises an error unless the shapes of the inputs fit.
    virtual std::vector<ov::PartialShape> infer(const std::vector<ov::PartialShape> &shapes) const = 0;
    virtual void compute(const ov::TensorVector &inputs, ov::TensorVector &outputs) const = 0;

    [[noreturn]] void fail(const std::string &sentence) const { mmvmamba::fail(get_type_info().name, sentence); }

    bool has(const std::string &input) const { return index_of(input) < m_inputs.size(); }

    size_t index_of(const std::string &input) const {
        return size_t(std::find(m_inputs.begin(), m_inputs.end(), input) - m_inputs.begin());
    }

    // Null for an input that the node does not have.
    const float *data_of(const std::string &input, const ov::TensorVector &inputs) const {
        return has(input) ? inputs[index_of(input)].data<const float>() : nullptr;
    }

    // Raises an error unless the input is absent or can have this shape. `context` completes the sentence.
    void check_shape(const std::string &input, const std::vector<ov::PartialShape> &shapes,
                     const ov::PartialShape &expected, const std::string &context) const {
        if (!has(input) || shapes[index_of(input)].compatible(expected)) return;
        fail(input + " has the shape " + describe(shapes[index_of(input)]) + ", expected " + describe(expected) +
             " for " + context + ".");
    }

    void check_memory(bool failed) const {
        if (failed) fail("not enough memory for the temporary buffers.");
    }

    std::vector<std::string> m_inputs;
    int64_t m_version = OPERATORS_VERSION;
};

// The map (b, [K,] H, W, c) as an argument of the kernels.
inline scan_map map_of(const float *data, const ov::Shape &shape) {
    std::vector<int64_t> size(shape.end() - 3, shape.end()); // H, W, c
    int64_t row = size[1] * size[2], map = size[0] * row;
    scan_map m = {};
    m.data = const_cast<float *>(data);
    m.dtype = SCAN_FLOAT32;
    m.batch = shape.size() == 5 ? int64_t(shape[1]) * map : map;
    m.traversal = shape.size() == 5 ? map : 0;
    m.row = row;
    m.col = size[2];
    return m;
}

// The threads of the running inference: those of the TBB arena that calls evaluate().
inline const scan_pool *arena_pool() {
    static const scan_pool pool = {[](const scan_pool *, int64_t count, void (*job)(void *, int64_t), void *data) {
        tbb::parallel_for(int64_t(0), count, [&](int64_t i) { job(data, i); }, tbb::simple_partitioner());
    }};
    return &pool;
}

inline int64_t arena_threads() { return tbb::this_task_arena::max_concurrency(); }

} // namespace mmvmamba
