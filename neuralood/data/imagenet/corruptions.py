"""The corruptions of ImageNet-C by name (Hendrycks and Dietterich 2019)."""

ARCHIVES = {
    "noise.tar": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur.tar": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather.tar": ("snow", "frost", "fog", "brightness"),
    "digital.tar": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra.tar": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""What is downloaded -> the corruptions in it."""

EXTRA = ARCHIVES["extra.tar"]
"""Corruptions for tuning on: they never count in the mean corruption error."""

ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""The 15 corruptions of the mean corruption error -> AlexNet's top-1 error, the mean over severities."""

CORRUPTIONS = tuple(ALEXNET_ERROR)
"""The 15 that count in the mean corruption error."""

SEVERITIES = (1, 2, 3, 4, 5)
