"""Launchers of the native CPU kernels in csrc/cpu, one call of the extension each.

The kernels read rows whose last dimension is adjacent, with any other strides, and weigh in
float32: what is not so is copied here.
"""
