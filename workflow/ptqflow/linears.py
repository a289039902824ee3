"""What a decoder block's linears, and their distinct inputs, are called."""

from typing import Literal

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SiteName = Literal["qkv", "o", "gate_up", "down"]  # a distinct linear input of a block
ROW_PARALLEL = ("o_proj", "down_proj")  # linears whose input a tensor-parallel engine splits
