import torch

from crystalline.quantizers.kmeans import kmeans


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_separated_clouds_get_a_centroid_each():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [9.0, 9.0]])
    points = (centres[:, None] + 0.1 * torch.randn(4, 50, 2, generator=generator())).flatten(0, 1)
    found = kmeans(points, 12, iterations=20, generator=generator())
    assert torch.cdist(centres, found).min(1).values.max() < 0.3


def test_no_centroid_is_left_without_points():
    points = torch.cat([torch.zeros(500, 3), torch.randn(30, 3, generator=generator())])
    found = kmeans(points, 20, generator=generator())
    owner = torch.cdist(points, found).argmin(1)
    assert owner.unique().numel() == 20


def test_fewer_points_than_centroids_are_all_kept():
    points = torch.randn(3, 2, generator=generator())
    found = kmeans(points, 8, generator=generator())
    assert found.shape == (8, 2)
    assert found.isfinite().all()
    assert torch.cdist(points, found).min(1).values.max() < 1e-5


def test_the_same_generator_gives_the_same_centroids():
    points = torch.randn(200, 4, generator=generator())
    assert torch.equal(
        kmeans(points, 9, generator=generator(5)), kmeans(points, 9, generator=generator(5))
    )
