"""The kernels of squared ReLU.

Backward: out = max(x, 0)^2, so d out / d x = 2 max(x, 0), and the gradient of x is 2 max(x, 0) times that of out.
"""

import triton
import triton.language as tl


@triton.jit
def squared_relu_forward(
    x_ptr,  # (n,)
    out_ptr,  # (n,)
    n,
    BLOCK: tl.constexpr,
):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < n
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    positive = tl.maximum(x, 0.0)
    tl.store(out_ptr + places, positive * positive, mask=inside)


@triton.jit
def squared_relu_backward(
    grad_out_ptr,  # (n,)
    x_ptr,  # (n,)
    grad_x_ptr,  # (n,)
    n,
    BLOCK: tl.constexpr,
):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < n
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    grad_out = tl.load(grad_out_ptr + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x_ptr + places, 2.0 * tl.maximum(x, 0.0) * grad_out, mask=inside)
