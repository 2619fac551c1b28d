"""GPU kernels. Import them where they are used, since they import triton."""
