"""Brain geometry: are images that differ to people's brains those that differ to a model (Kriegeskorte et al. 2008)?"""
