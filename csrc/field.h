// The field: hash grid -> level weights -> Linear, ReLU, Linear -> pre-activation density h and raw colour, plus dh/dx as an output.
//
//   e = level_weight * enc((x + bound) / (2 bound)),  z = W1 e + b1,  m = [z > 0],  o = W2 (m z) + b2
//   h = o_0 + blob(x),  rgb_raw = o_1..3,  q = W1^T (m w2_0),  grad_h = J^T q + blob'(x),  J = de/dx
//
// Gradient, given d_o (4) and v = d_grad_h; u = J v, a = m (W1 u), dz = m (W2^T d_o):
//   dW2 = d_o (m z)^T, row 0 += a;  dW1 = dz e^T + (m w2_0) u^T;  db1 = dz;  db2 = d_o
//   table, per corner: w_c de + (grad w_c . v) q with de = W1^T dz: the value and the normal path in one scatter.
// No other terms: ReLU has no second derivative, and x gets no gradient. Table and weight gradients are accumulated (+=).
#pragma once
#include "hashgrid.h"

namespace dfn {

constexpr int kMaxHidden = 128;
constexpr int kOutputs = 4;  // h, r, g, b

enum BlobKind { kBlobNone = 0, kBlobGaussian = 1, kBlobCone = 2 };

template <class T>
struct Blob {  // a bump of density at the origin, world units
    int kind;
    T strength, radius;
};

template <class T>
struct FieldModel {
    GridLayout grid;
    T level_weight[kMaxLevels];  // 0 = the level is skipped
    int hidden;
    T bound;         // half edge of the scene cube
    Blob<T> blob;
    const T* table;  // (entries, features)
    const T* W1;     // (hidden, levels * features)
    const T* b1;     // (hidden)
    const T* W2;     // (4, hidden)
    const T* b2;     // (4)
};

template <class T>
struct Field {
    FieldModel<T> model;
    const T* x;          // in   (n, 3), world
    T* h;                // out  (n)
    T* rgb_raw;          // out  (n, 3), or null with grad_h: density only
    T* grad_h;           // out  (n, 3)
    const T* d_h;        // in   (n)
    const T* d_rgb_raw;  // in   (n, 3)
    const T* d_grad_h;   // in   (n, 3)
    T* grad_table;       // +=   (entries, features)
    T* grad_weights;     // +=   W1, b1, W2, b2 one after the other
    int64_t n;
    const int64_t* count;  // in (1), valid leading rows, or null
};

}  // namespace dfn
