// A PyTorch without CUDA lacks this generated header.
#pragma once
