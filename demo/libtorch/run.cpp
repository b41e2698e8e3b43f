/* Runs a traced model (.pt) or an AOTInductor package (.pt2) in C++, without Python.
 *
 *     ./run MODEL torch_ops.so image.f32 HEIGHT WIDTH
 *
 * docs/export.md describes how to compile this program and to build torch_ops.so, which contains mmvmamba's operators.
 * image.f32 is an image as raw float32 values in the order (3, HEIGHT, WIDTH). Prints the shape of each output, and its
 * values if there are at most 10, else the first 10.
 */
#include <dlfcn.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

static std::vector<at::Tensor> run(const std::string &path, const at::Tensor &images) {
    if (path.size() > 4 && path.substr(path.size() - 4) == ".pt2")
        return torch::inductor::AOTIModelPackageLoader(path).run({images});
    auto model = torch::jit::load(path);
    model.eval();
    auto output = model.forward({images});
    if (output.isTensor()) return {output.toTensor()};
    std::vector<at::Tensor> tensors;
    for (const auto &element : output.toTupleRef().elements()) tensors.push_back(element.toTensor());
    return tensors;
}

int main(int argc, char **argv) {
    int64_t height = argc == 6 ? atoll(argv[4]) : 0, width = argc == 6 ? atoll(argv[5]) : 0;
    if (height <= 0 || width <= 0) {
        std::cerr << "usage: " << argv[0] << " MODEL OPERATORS IMAGE HEIGHT WIDTH\n";
        return 1;
    }
    if (!dlopen(argv[2], RTLD_NOW)) {
        std::cerr << dlerror() << "\n";
        return 1;
    }
    auto images = torch::empty({1, 3, height, width});
    std::ifstream file(argv[3], std::ios::binary);
    if (!file.read(static_cast<char *>(images.data_ptr()), images.nbytes()) || file.peek() != EOF) {
        std::cerr << argv[3] << " must contain " << images.numel() << " float32 values.\n";
        return 1;
    }
    c10::InferenceMode guard;
    try {
        for (const auto &output : run(argv[1], images)) {
            auto values = output.flatten().contiguous();
            std::cout << output.sizes() << ":";
            for (int64_t i = 0; i < std::min<int64_t>(10, values.numel()); ++i)
                printf(" %.7g", values.data_ptr<float>()[i]);
            std::cout << std::endl;
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
