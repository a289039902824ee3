import torch
from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.smoothquant import smoothing_scale
from ptqflow.recipes import SmoothQuantTransform


def test_scale_is_that_of_the_paper_over_all_linears_of_the_site():
    absmax = torch.tensor([4.0, 0.0, 1.0])
    weights = [torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[-2.0, 0.5, 0.0]])]
    site = SiteInputs(absmax, absmax, weights, [None, None], None, lambda x, how: x)
    scale = smoothing_scale(site, SmoothQuantTransform(name="smoothquant", smoothing_strength=0.5))
    torch.testing.assert_close(scale, torch.tensor([2**0.5, 1e-5, 1e-5**-0.5]))
