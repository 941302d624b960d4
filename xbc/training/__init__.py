"""Training on crossbars: ``pip install -e ".[train]"`` in the checkout (torch).

Modules: ``devices`` (the array, numpy), ``converters`` (DAC and ADC), ``layers`` (layers whose products run
    on devices), ``optimizer`` (digital accumulators around any torch optimiser), ``quantized`` (uniformly
    scaled and unipolar quantisation-aware training), ``export`` (ONNX with the codes that the devices
    hold).
"""
