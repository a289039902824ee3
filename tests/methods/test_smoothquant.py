import torch
from ptqflow.methods.scaling import SiteInputs
from ptqflow.methods.transforms.smoothquant import smoothing_scale
from ptqflow.methods.transforms.smoothquant_settings import SmoothQuantTransform
from ptqflow.transforms.diagonal import by_value_head


def test_scale_is_that_of_the_paper_over_all_linears_of_the_site():
    absmax = torch.tensor([4.0, 0.0, 1.0])
    weights = [torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[-2.0, 0.5, 0.0]])]
    site = SiteInputs(absmax, absmax, weights, [None, None], None, lambda x, how: x)
    scale = smoothing_scale(site, SmoothQuantTransform(name="smoothquant", smoothing_strength=0.5))
    torch.testing.assert_close(scale, torch.tensor([2**0.5, 1e-5, 1e-5**-0.5]))


def test_query_heads_that_share_a_scale_share_the_largest_of_both_statistics():
    absmax, weight = torch.tensor([4.0, 1.0, 2.0, 8.0]), torch.tensor([[0.5, 1.0, 0.25, -2.0]])
    site = SiteInputs(absmax, absmax, [weight], [None], None, lambda x, how: by_value_head(x, 2, 2, how).flatten())
    scale = smoothing_scale(site, SmoothQuantTransform(name="smoothquant", smoothing_strength=0.5, sites=["o"]))
    torch.testing.assert_close(scale, torch.tensor([8.0, 4.0, 8.0, 4.0]).sqrt())
