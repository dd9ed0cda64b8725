// How an op becomes a function of the module: its params struct is filled from keyword arguments of the names that
// DFN_FIELDS lists, and launched without the GIL.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "base/launch.h"

namespace dfn {

namespace py = pybind11;

template <class T>
T* ptr(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

struct Nobody {};
template <class T, class = void>
struct HasFields : std::false_type {};
template <class T>
struct HasFields<T, std::void_t<decltype(std::declval<T&>().fields(std::declval<Nobody&>()))>> : std::true_type {};

// Collects the names of a params struct's fields, those of the structs inside it in their place; blob.kind is
// blob_kind.
class FieldNames {
public:
    std::vector<std::string> found;

    template <class... Fields>
    void operator()(const char* names, Fields&... fields) {
        (add(next(names), fields), ...);
    }

private:
    static std::string next(const char*& rest) {
        std::string name;
        for (; *rest && *rest != ','; ++rest)
            if (*rest != ' ') name += *rest == '.' ? '_' : *rest;
        if (*rest) ++rest;
        return name;
    }

    template <class Field>
    void add(const std::string& name, Field& field) {
        if constexpr (HasFields<Field>::value)
            field.fields(*this);
        else
            found.push_back(name);
    }
};

// The arguments of one op. A pointer travels as an integer; None is null. Fields that the op does not use stay zero.
class Signature {
public:
    Signature(std::string op, const std::vector<std::string>& fields, const std::set<std::string>& unused)
        : op_(std::move(op)) {
        for (const std::string& name : fields) {
            names_.push_back(unused.count(name) ? py::object() : py::str(name));
            used_ += !unused.count(name);
        }
    }

    template <class Params>
    Params read(const py::kwargs& given) const {
        Params p{};
        Reader reader{*this, given};
        p.fields(reader);
        if (given.size() != used_) refuse_unknown(given);
        return p;
    }

    // The names, for the docstring.
    std::string summary() const {
        std::string all;
        for (const py::object& name : names_)
            if (name) all += (all.empty() ? "" : ", ") + text(name);
        return all;
    }

private:
    struct Reader {
        const Signature& signature;
        const py::kwargs& given;
        size_t next = 0;

        template <class... Fields>
        void operator()(const char*, Fields&... fields) {
            (read(fields), ...);
        }

        template <class Field>
        void read(Field& field) {
            if constexpr (HasFields<Field>::value)
                field.fields(*this);
            else
                signature.set(signature.names_[next++], given, field);
        }
    };

    template <class Field>
    void set(const py::object& name, const py::kwargs& given, Field& field) const {
        if (!name) return;
        const py::handle value = PyDict_GetItem(given.ptr(), name.ptr());
        if (!value) throw py::type_error(op_ + ": missing argument " + text(name));
        try {
            if constexpr (std::is_pointer_v<Field>)
                field = value.is_none() ? nullptr : reinterpret_cast<Field>(value.cast<uintptr_t>());
            else
                field = value.cast<Field>();
        } catch (const py::cast_error&) {
            throw py::type_error(op_ + ": argument " + text(name) + " is of another type");
        }
    }

    void refuse_unknown(const py::kwargs& given) const {
        for (const auto& argument : given) {
            bool known = false;
            for (const py::object& name : names_) known = known || (name && name.equal(argument.first));
            if (!known) throw py::type_error(op_ + ": unknown argument " + text(argument.first));
        }
    }

    static std::string text(py::handle name) { return name.cast<std::string>(); }

    std::string op_;
    std::vector<py::object> names_;  // of all fields in their order; null where one is not used
    size_t used_ = 0;
};

// m.op(is_double, device, stream, threads, /, **fields): fills Params and calls launch(scalar, params, exec). The first
// four have no names: a field may be called `stream`, too.
template <template <class> class Params, class Launch>
void def_op(py::module_& m, const char* op, const std::set<std::string>& unused, Launch launch) {
    FieldNames names;
    Params<float>{}.fields(names);
    const Signature signature(op, names.found, unused);
    m.def(
        op,
        [signature, launch](bool is_double, int device, uintptr_t stream, int threads, const py::kwargs& given) {
            const auto run = [&](auto scalar) {
                const auto p = signature.read<Params<decltype(scalar)>>(given);
                const py::gil_scoped_release nogil;
                launch(scalar, p, Exec{device, stream, threads});
            };
            is_double ? run(double{}) : run(float{});
        },
        signature.summary().c_str());
}

#ifdef DFN_CUDA
#define DFN_LAUNCH_CUDA(op, T, p, e)                                  \
    if constexpr (std::is_same_v<T, float>) return cuda::op<T>(p, e); \
    throw std::invalid_argument(#op ": float64 runs on the CPU only")
#else
#define DFN_LAUNCH_CUDA(op, T, p, e) throw std::runtime_error(#op ": this build has no CUDA code")
#endif

// The launchers of an op as one callable: launch(scalar, params, exec) runs where exec says.
#define DFN_LAUNCHER(op)                            \
    [](auto scalar, const auto& p, const Exec& e) { \
        using T = decltype(scalar);                 \
        if (e.device < 0) return cpu::op<T>(p, e);  \
        DFN_LAUNCH_CUDA(op, T, p, e);               \
    }

// Binds an op; the names that follow are those of fields that it does not use.
#define DFN_BIND(m, op, Params, ...) def_op<Params>(m, #op, {__VA_ARGS__}, DFN_LAUNCHER(op))

// One per folder.
void bind_adam(py::module_& m);
void bind_base(py::module_& m);
void bind_ceilings(py::module_& m);
void bind_composite(py::module_& m);
void bind_field(py::module_& m);
void bind_hashgrid(py::module_& m);
void bind_march(py::module_& m);
void bind_occupancy(py::module_& m);
void bind_raster(py::module_& m);
void bind_shade(py::module_& m);

}  // namespace dfn
