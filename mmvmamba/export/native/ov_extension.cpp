// The entry point of the library: the operators for OpenVINO, and the translation of ONNX nodes of the domain mmvmamba.
#include "openvino/core/extension.hpp"
#include "openvino/core/op_extension.hpp"
#include "openvino/frontend/onnx/extension/conversion.hpp"
#include "openvino/op/add.hpp"
#include "openvino/op/gelu.hpp"
#include "ov_add_norm.hpp"
#include "ov_conv_silu.hpp"
#include "ov_selective_scan.hpp"

namespace mmvmamba {
namespace {

using ov::frontend::NodeContext;

template <typename T> T attribute(const NodeContext &node, const char *name, const char *sentence) {
    ov::Any value = node.get_attribute_as_any(name);
    if (!value.is<T>()) fail(node.get_op_type(), std::string("the attribute ") + name + sentence);
    return value.as<T>();
}

int64_t integer(const NodeContext &node, const char *name) {
    return attribute<int64_t>(node, name, " is missing or not an integer.");
}

std::vector<int64_t> integers(const NodeContext &node, const char *name) {
    return attribute<std::vector<int64_t>>(node, name, " must be a list of at least one integer.");
}

int64_t version(const NodeContext &node) {
    auto version = attribute<int64_t>(node, "version", " is missing or not an integer; export the model again.");
    check_version(node.get_op_type(), version);
    return version;
}

// The inputs that the node has, and their names. The first `required` ones must not be missing.
std::pair<ov::OutputVector, std::vector<std::string>>
inputs_of(const NodeContext &node, const std::vector<std::string> &names, size_t required) {
    std::pair<ov::OutputVector, std::vector<std::string>> found;
    for (size_t i = 0; i < names.size(); i++) {
        ov::Output<ov::Node> input;
        if (i < node.get_input_size()) input = node.get_input(int(i));
        if (input.get_node() && std::string(input.get_node()->get_type_name()) != "NullNode") {
            found.first.push_back(input);
            found.second.push_back(names[i]);
        } else if (i < required) fail(node.get_op_type(), "the input " + names[i] + " is missing.");
    }
    return found;
}

ov::OutputVector scan(const NodeContext &node) {
    auto [inputs, names] = inputs_of(node, SelectiveScan2D::input_names(), 3);
    return std::make_shared<SelectiveScan2D>(inputs, names, version(node), integers(node, "codes"),
                                             integer(node, "softplus"))
        ->outputs();
}

ov::OutputVector conv(const NodeContext &node) {
    auto [inputs, names] = inputs_of(node, ConvSiLU::input_names(), 2);
    return std::make_shared<ConvSiLU>(inputs, names, version(node), integers(node, "left"))->outputs();
}

ov::OutputVector add_norm(const NodeContext &node) {
    auto [inputs, names] = inputs_of(node, AddNorm::input_names(), 2);
    auto epsilon = attribute<double>(node, "epsilon", " is missing or not a float.");
    return std::make_shared<AddNorm>(inputs, names, version(node), epsilon, integer(node, "rms"))->outputs();
}

// mmvmamba::BiasGelu of ort_bias_gelu.c with OpenVINO's own operators, which it fuses with the matrix product before them.
ov::OutputVector bias_gelu(const NodeContext &node) {
    version(node);
    auto sum = std::make_shared<ov::op::v1::Add>(node.get_input(0), node.get_input(1));
    return {std::make_shared<ov::op::v7::Gelu>(sum, ov::op::GeluApproximationMode::ERF)};
}

std::shared_ptr<ov::Extension> conversion(const char *name, ov::OutputVector (*convert)(const NodeContext &)) {
    return std::make_shared<ov::frontend::onnx::ConversionExtension>(name, "mmvmamba", convert);
}

} // namespace
} // namespace mmvmamba

OPENVINO_CREATE_EXTENSIONS((std::vector<ov::Extension::Ptr>{
    std::make_shared<ov::OpExtension<mmvmamba::SelectiveScan2D>>(),
    std::make_shared<ov::OpExtension<mmvmamba::ConvSiLU>>(),
    std::make_shared<ov::OpExtension<mmvmamba::AddNorm>>(),
    mmvmamba::conversion("SelectiveScan2D", mmvmamba::scan),
    mmvmamba::conversion("ConvSiLU", mmvmamba::conv),
    mmvmamba::conversion("BiasGelu", mmvmamba::bias_gelu),
    mmvmamba::conversion("AddNorm", mmvmamba::add_norm),
}))
