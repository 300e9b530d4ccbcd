from crystalline.interpret.sites import layer_of


def test_the_layer_of_a_site_is_the_first_number_of_its_name():
    assert layer_of("layers.3.mlp.group.0") == 3
    assert layer_of("stages.0.blocks.2.quantizer") == 0
    assert layer_of("layers.12") == 12
    assert layer_of("mlp2.quantizer") is None
