"""The metrics of docs/evaluation.md: name, definition, source, limits. Text only."""

SPREADS = (
    '"mean ± s": s is the standard deviation over the runs (prompts and seeds together). Only in the columns "IoU, '
    'change", and as bars of the plots, it is the standard error of the mean, there of the difference between runs of '
    "the same prompt and seed. The seeds of a prompt are alike, so each prompt counts as one sample, the mean of its "
    "seeds; where there is one prompt alone, each seed."
)
HEAD = f"""# Evaluation

Written by `python benches/evaluation_report.py` from `benches/results/ablation.json`, which `python
benches/ablation.py` leaves; do not edit. The prompts name toys of the embedded prior, whose true shapes are known, so
that a result has an IoU and not only a look; no part of generation sees them. `dreamfusion-ngp evaluate RUN` gives
the same figures for any run.

{SPREADS}

A table compares the same prompts and seeds in all of its rows. A run without a result (an empty scene, or one that
diverged) counts as 0 in IoU and R-Precision; its seconds count, and all other figures are means over the other runs.
Where no figures stand, none were measured.
"""

METRICS = (
    (
        "Volumetric IoU",
        "Intersection over union of two solids: the field where its density exceeds the level of the mesh export, its "
        "closed cavities filled, and the toy in its canonical proportions. Counted on some two million random points, "
        "most of them near the two surfaces, each with its share of the volume: unbiased, with a standard error below "
        ".001. The toy is turned about the vertical and scaled by 0.7 to 1.4 about the origin for the best value, "
        "which is sought on points of its own; nothing else is fitted.",
        "the usual definition; `evaluation/metrics/volume.py`; within .003 of a million points on exact solids "
        "(tests/evaluation/test_volume.py).",
        "it rewards bulk: a mug without its handle loses little. A text does not fix proportions, and the prior was "
        "trained on a family of them, so 1 is not to be expected.",
    ),
    (
        "Silhouette IoU",
        "Mean over 24 fixed views (eight azimuths at -5, 20 and 50 degrees of elevation, 128 x 128 pixels) of the "
        "IoU of the opaque pixels (opacity above one half) and the toy's silhouette. Nothing is aligned.",
        "the usual definition; `evaluation/metrics/silhouettes.py`.",
        "a shape that is right but turned or too large loses; hollows that no outline shows are not seen.",
    ),
    (
        "Chamfer distance",
        "Mean distance of 4096 points on the outer surface to the nearest of the other surface, both ways averaged, "
        "not squared, in world units (a toy is about 1 across), best over yaw and scale as for the IoU.",
        "the usual definition; `evaluation/metrics/surface.py`.",
        "it looks at the nearest surface, not the right one: a filled hole costs little. Between two samples of one "
        "surface it is not 0 but about 0.008.",
    ),
    (
        "Mesh Chamfer and normals",
        "Mean distance of 20,000 points of the exported surface to the surface of the toy and back, both ways "
        "averaged, in world units, and the mean angle in degrees between the normals of the two at the same places. "
        "The toy is turned and scaled as for the best IoU.",
        "`evaluation/metrics/closed_mesh.py`: the toy's surface is that of its distance function, not a sample of it.",
        "smaller than the Chamfer distance above, which has the spacing of its points in it: never compare the two.",
    ),
    (
        "PSNR",
        "Mean over eight lit views (30 degrees of elevation, 256 x 256 pixels) of the peak signal-to-noise ratio in dB "
        "to pictures of the true toy. Nothing is aligned.",
        "`evaluation/figures.py`.",
        "backgrounds are alike and count, so that small objects score more; a shifted object loses whatever it is.",
    ),
    (
        "Pieces, genus, faces needed",
        "Separate pieces of the solid; by how many handles the exported surface differs from the toy, which has 0 or "
        "1; the fewest of 16,000 triangles, halved again and again, that say the surface to .001 in the mean.",
        "`evaluation/metrics/topology.py`, by the Euler characteristic.",
        "a handle that is missing and one too many elsewhere cancel.",
    ),
    (
        "Chroma to the truth's",
        "Mean chroma (CIELAB) of the object in eight unlit views, divided by the true toy's: above 1 is "
        "over-saturated.",
        "`evaluation/figures.py`.",
        "not for gray and white; parts in other colours count too.",
    ),
    (
        "Diversity",
        "How different the results of one prompt are: the mean over all pairs of seeds of the root mean square "
        "difference of their pictures' pixels, 0 to 1; mean and spread are over prompts.",
        "`experiments/diversity.py`.",
        "a result that is wrong in its own way for every seed is diverse.",
    ),
    (
        "Colour error",
        "Root mean square distance, over the channels, of the mean surface colour to the colour that the prompt "
        "names, 0 to 1.",
        "`evaluation/metrics/colors.py`.",
        "parts that a toy has in other colours (a snowman's hat) count too, so a perfect toy does not always score 0.",
    ),
    (
        "Evaluations a run",
        "Of the UNet, each for one view and one text; a lesson of vsd's student, forward and backward, counts as "
        "three.",
        "`experiments/arms.py`.",
        "counted from the settings: runs are made equal in these, not in time.",
    ),
    (
        "Extra faces",
        "How often the toy's face is repeated beyond once (Janus), summed over the runs. Views at eight azimuths are "
        "compared by silhouette, colour and relief with the true toy and with symmetrised variants of it (one half "
        "twice, or two to four in one body); a variant must explain them better than the true toy by 4 % to be "
        "believed.",
        "`evaluation/metrics/faces.py`; validated on true and on symmetrised toys in `tests/evaluation/test_faces.py`.",
        "only for the classes that have a front. It cannot name a fault that is none of the variants, and a "
        "shapeless result may look like any of them. A run without a result adds none.",
    ),
    (
        "R-Precision",
        "The share of renderings, from eight azimuths at 30 degrees of elevation, for which a retrieval model ranks "
        "the prompt's caption first among all captions: Colour with lit renderings among 220 (20 toys in 11 "
        "colours), Geo with textureless ones among the 20 toys, unlit with the colours as they are, among the 220.",
        "Park et al. 2021; views, seeds and Geo as in DreamFusion, section 4; `evaluation/retrieval.py`.",
        "it is as good as its model. The embedded judge was trained on the same toys (other cameras, colours, "
        "backgrounds), so these figures compare settings with each other and not with the paper's, which are CLIP's "
        "on 153 prompts. Unlit renderings show what is painted on, right shape or not: never judge by them alone. "
        'The row "true toys" says what is within reach: it is measured as the runs are, on pictures of 128 pixels, '
        "which the judge sees reduced to its 64; above each table stands what it finds of all toys drawn at 64.",
    ),
    (
        "Seconds",
        "Wall time. In the table of twenty-four toys that of the whole command, from its start to the mesh and the "
        "turntable; elsewhere of a process that optimises and writes no mesh. Scoring is not counted. Processor "
        "seconds are those that all threads of that process used.",
        "`experiments/run_task.py`.",
        "wall time depends on what else the machine does, and the runs of a table were not made at the same time: "
        "compare the processor's seconds. On a GPU these are those of the host.",
    ),
)
