"""Numbers, words and names of the command line that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.command_line import REFUSED, refused, usage_error
from helpers.rows import Rows, cases, words

DIGITS = "9" * 5000  # more than Python turns into a number


ARGUMENTS: Rows = [
    ("a single pixel", "validate --input-size 1", "--input-size '1' is a single pixel"),
    ("unknown model", "validate resnet21", "bottlenecks 9n + 2, 1202 at most (did you mean resnet20 or resnet26?)"),
    ("model in capitals", "validate ResNet20", "no model 'ResNet20'"),
    ("model without a name", "validate ''", "no model ''"),
    ("model that is no classifier", "validate fcn_resnet50", "no model 'fcn_resnet50'"),
    ("model that is a path", "validate ./net.pth", "no model './net.pth'"),
    ("layers of an unknown model", "layers resnet21", "no model 'resnet21'"),
    ("layers at a size", "layers resnet20 --input-size 0", "--input-size '0' is out of range"),
    ("layers with an unknown head", "layers resnet20 --head fc", "resnet20 has no module 'fc'"),
    ("unknown precision", "validate --precision 16", "--precision '16' is unknown; choose 32, bf16 or auto"),
    ("unknown device", "validate --device gpu", "--device 'gpu' is unknown"),
    ("device number", "validate --device cuda:x", "--device 'cuda:x' is unknown"),
    ("negative device number", "validate --device cuda:-1", "--device 'cuda:-1' is unknown"),
    ("device that is not there", "validate --device cuda:99", "--device cuda:99 is not available"),
    ("huge device number", "validate --device cuda:99999999999", "--device 'cuda:99999999999' is unknown"),
    ("gpu that is not there", "validate --gpu 99", "cuda:99 is not available: this machine has"),
    ("negative gpu", "validate --gpu -1", "--gpu -1 is negative"),
    ("gpu and device", "validate --gpu 0 --device cpu", "--gpu and --device say the same thing"),
    ("batch size 0", "validate --batch-size 0", "--batch-size 0 is not at least 1"),
    ("negative batch size", "validate -b -4", "--batch-size -4 is not at least 1"),
    ("negative workers", "validate -j -1", "--workers -1 is negative"),
    ("negative seed", "validate --seed -1", "--seed -1 is not between"),
    ("seed too large", "validate --seed 9223372036854775808", "--seed 9223372036854775808 is not between"),
    ("mean of one", "validate --mean 0.5", "--mean '0.5' is not three"),
    ("mean of four", "validate --mean 0.5,0.5,0.5,0.5", "--mean '0.5,0.5,0.5,0.5' is not three"),
    ("mean of words", "validate --mean a,b,c", "--mean 'a,b,c' is not three"),
    ("mean with a gap", "validate --mean 0.5,,0.5", "--mean '0.5,,0.5' is not three"),
    ("mean of no text", "validate --mean ''", "--mean '' is not three"),
    ("mean NaN", "validate --mean nan,0.5,0.5", "--mean 'nan,0.5,0.5' is not three"),
    ("mean infinite", "validate --mean 0.5,inf,0.5", "--mean '0.5,inf,0.5' is not three"),
    ("std zero", "validate --std 0.2,0,0.2", "--std '0.2,0,0.2' must be positive"),
    ("std negative", "validate --std 0.2,0.2,-0.2", "--std '0.2,0.2,-0.2' must be positive"),
    ("std NaN", "validate --std nan,nan,nan", "--std 'nan,nan,nan' is not three"),
    ("unknown interpolation", "validate --interpolation lanczos", "--interpolation 'lanczos' is unknown"),
    ("input size 0", "validate --input-size 0", "--input-size '0' is out of range"),
    ("input size too large", "validate --input-size 4097", "--input-size '4097' is out of range"),
    ("input size of words", "validate --input-size big", "--input-size 'big' is not a size"),
    ("input size of three", "validate --input-size 32x32x3", "--input-size '32x32x3' is not a size"),
    ("input size of half", "validate --input-size 32x", "--input-size '32x' is not a size"),
    ("input size of superscripts", "validate --input-size 3²", "--input-size '3²' is not a size"),
    ("input size of no end", f"validate --input-size {DIGITS}", "--input-size"),
    ("negative resize", "validate --resize -32", "--resize '-32' is not a size"),
    ("resize with a point", "validate --resize 32.5", "--resize '32.5' is not a size"),
    ("crop 0", "validate --crop 0x32", "--crop '0x32' is out of range"),
    ("unknown head", "validate --no-cache --head fc", "resnet20-digits has no module 'fc'"),
    ("head that is none", "validate --no-cache --head layer1.0.conv1", "'layer1.0.conv1' is not the head of"),
    ("head without a name", "validate --no-cache --head ''", "''"),
    ("k 0", "extract-indices -k 0", "-k '0' is neither"),
    ("k negative", "extract-indices -k -5", "-k '-5' is neither"),
    ("k above D", "extract-indices -k 65", "-k 65 is more than the 64 features"),
    ("one k above D", "extract-indices -k 5,65", "-k 65 is more than the 64 features"),
    ("k as a word", "extract-indices -k five", "-k 'five' is neither"),
    ("k without end", "extract-indices -k 5,", "-k '5,' has a comma with no number beside it"),
    ("k without text", "extract-indices -k ''", "-k '' is neither"),
    ("k NaN", "extract-indices -k nan", "-k 'nan' is neither"),
    ("k infinite", "extract-indices -k inf", "-k 'inf' is neither"),
    ("k of no end", f"extract-indices -k {DIGITS}", "-k"),
    ("fraction 0", "extract-indices -k 0.0", "-k '0.0' is neither"),
    ("fraction 1", "extract-indices -k 1.0", "-k '1.0' is neither"),
    ("fraction above 1", "extract-indices -k 1.5", "-k '1.5' is neither"),
    (
        "fraction of negative scores",
        "extract-indices -k 0.9 --method contribution",
        "needs scores that are not negative",
    ),
    ("fraction of weights", "extract-indices -k 0.9 --method weight", "needs scores that are not negative"),
    ("unknown method", "extract-indices --method best", "--method 'best' is unknown; choose frequency"),
    ("unknown layout", "extract-indices --layout yaml", "--layout 'yaml' is unknown; choose published, document"),
    ("method in capitals", "extract-indices --method Mean", "--method 'Mean' is unknown"),
]
STUDY_ARGUMENTS: Rows = [
    *((f"essential: k {k}", f"essential -k {k}", f"-k '{k}' is neither") for k in ("0", "-5", "five", "1.5", "nan")),
    *(
        (f"mutual-info: k {k}", f"mutual-info -k {k}", f"-k '{k}' is neither")
        for k in ("0", "-5", "five", "1.5", "inf")
    ),
    ("essential: k above D", "essential -k 65", "-k 65 is more than the 64 features"),
    ("essential: two k", "essential -k 5,10", "one k at a time"),
    ("essential: k beside a file", "essential -i {m}/plain.json -k 5", "-k 5 has no effect"),
    (
        "essential: k beside files only",
        "essential -i {m}/plain.json --method a={m}/plain.pth,{m}/plain.json -k 5",
        "-k 5 has no effect: every feature set is given as a file",
    ),
    ("essential: k without end", "essential -k 5,", "-k '5,' has a comma with no number beside it"),
    ("mutual-info: k above D", "mutual-info -k 5,65", "-k 65 is more than the 64 features"),
    ("mutual-info: k without end", "mutual-info -k 5,", "-k '5,' has a comma with no number beside it"),
    ("mutual-info: no k", "mutual-info -k ''", "-k '' is neither"),
    *(
        (f"sweep: ks {ks}", f"sweep --ks {ks}", f"--ks '{ks}' is neither a whole number nor a range")
        for ks in ("1-", "-5", "1-2-3", "five", "1.5", "0.5", "nan", "²")
    ),
    *((f"sweep: ks {ks}", f"sweep --ks {ks}", f"--ks '{ks}' starts below 1") for ks in ("0", "0-3")),
    ("sweep: ks 5-1", "sweep --ks 5-1", "--ks '5-1' ends before it starts"),
    ("sweep: ks without end", "sweep --ks 1,", "--ks '' is neither"),
    ("sweep: no ks", "sweep --ks ''", "--ks '' is neither"),
    ("sweep: ks above D", "sweep --ks 65", "--ks 65 is more than the 64 features"),
    ("sweep: range beyond D", "sweep --ks 1-65", "--ks 65 is more than the 64 features"),
    ("sweep: endless range", "sweep --ks 1-999999999", "--ks 1-999999999 is more than any network has"),
    ("sweep: range of six digits", "sweep --ks 1-999999", "--ks 65 is more than the 64 features"),
    ("sweep: number of no end", f"sweep --ks {DIGITS}", "--ks", "is more than any network has features"),
    ("essential: unknown noise", "essential --noise salt", "--noise 'salt' is unknown; choose gaussian"),
    ("essential: noise in capitals", "essential --noise Gaussian", "--noise 'Gaussian' is unknown"),
    ("essential: no noise", "essential --noise ''", "--noise '' is unknown"),
    *(
        (f"{command}: order of no gates", f"{command} --order lowest", "--order lowest has no effect: no gates")
        for command in ("essential", "mutual-info", "mutual-info -i {m}/document.json", "extract-indices")
    ),
    ("sweep: order of no gates", "sweep --methods weight --ks 1 --order lowest", "--order lowest has no effect"),
    ("essential: unknown order", "essential --order upwards", "--order 'upwards' is unknown; choose highest, lowest"),
    ("mutual-info: unknown order", "mutual-info --order upwards", "--order 'upwards' is unknown"),
    ("sweep: unknown order", "sweep --order upwards", "--order 'upwards' is unknown"),
    ("extract-indices: unknown order", "extract-indices --order upwards", "--order 'upwards' is unknown"),
    ("mutual-info: unknown method", "mutual-info --method best", "--method 'best' is unknown; choose frequency"),
    ("mutual-info: no method", "mutual-info --method ''", "--method '' is unknown; choose frequency"),
    ("sweep: unknown method", "sweep --methods best", "--methods 'best' is unknown; choose frequency"),
    ("sweep: second method is unknown", "sweep --methods weight,best", "--methods 'best' is unknown"),
    ("sweep: methods without end", "sweep --methods weight,", "--methods '' is unknown"),
    ("sweep: no methods", "sweep --methods ''", "--methods '' is unknown"),
    *(
        (f"selectivity: fraction {f}", f"selectivity --fraction {f}", f"--fraction {f} is not between 0 and 1")
        for f in ("0", "1", "nan", "inf", "-0.5", "50")
    ),
    ("essential: repeats 0", "essential --repeats 0", "--repeats 0 is not at least 1"),
    ("essential: repeats -1", "essential --repeats -1", "--repeats -1 is not at least 1"),
    ("essential: controls -1", "essential --controls -1", "--controls -1 is negative"),
    *(
        (f"sweep: max-drop {d}", f"sweep --max-drop {d}", f"--max-drop {d} is not between 0 and 100")
        for d in ("-1", "nan", "inf", "-inf", "100")
    ),
    ("sweep: fitted and reported on one split", "sweep --split train --refit", "so they cannot be measured on them"),
    ("sweep: a search on one split", "sweep --split train --methods splicing --ks 2", "cannot be measured on them"),
    ("sweep: strength of no fit", "sweep --methods weight --l2 0.1", "--l2 0.1 has no effect: no weights are fitted"),
    ("sweep: share with refit", "sweep --refit --ks 0.5", "--ks '0.5' is neither a whole number nor a range"),
    *(
        (f"{command}: l2 {l2}", f"{command} --refit --l2 {l2}", f"--l2 {float(l2)} is not a positive number")
        for command in ("sweep", "validate -i {m}/plain.json", "finetune -i {m}/plain.json")
        for l2 in ("0", "-1", "nan", "inf")
    ),
    ("validate: refit of nothing", "validate --refit", "--refit fits the weights of an index set anew, and none was"),
    ("validate: strength of no fit", "validate -i {m}/plain.json --l2 1", "--l2 1 has no effect"),
    ("validate: fitted images", "validate -i {m}/plain.json --refit --split train", "cannot be measured on them"),
    (
        "validate: refit without a full head",
        "validate {images}/one_each resnet20-digits -w {m}/published.pth -i {m}/plain.json --refit",
        "--refit needs the full head, which",
        "published.pth no longer has",
    ),
    (
        "finetune: refit without a full head",
        "finetune {images}/one_each resnet20-digits -w {m}/published.pth -i {m}/plain.json --refit",
        "--refit needs the full head, which",
    ),
    (
        "finetune: refit of a decomposed network",
        "finetune {images}/one_each resnet20-digits -w {m}/decomposed.pth --refit",
        "decomposed.pth is decomposed already and has weights of its own: leave --refit out",
    ),
    ("finetune: strength of no fit", "finetune -i {m}/plain.json --l2 1", "--l2 1 has no effect"),
    *(
        (f"finetune: diversity {b}", f"finetune -k 3 --diversity {b}", f"--diversity {float(b)} is not a number of at")
        for b in ("-0.1", "nan", "inf")
    ),
    ("finetune: diversity of the head", "finetune --diversity 0.2 --only head", "--diversity 0.2 has no effect with"),
    ("finetune: diversity, compiled", "finetune --diversity 0.2 --compile", "does not go together with --compile"),
    ("sweep: chosen and reported on one split", "sweep --split train --max-drop 1", "cannot be reported on them"),
    ("sweep: unknown split", "sweep --split val", "digits has no split 'val'"),
    ("selectivity: no layer", "selectivity --layers ''", "--layers names no layer; give all, or names"),
    ("selectivity: comma for a layer", "selectivity --layers ,", "--layers names no layer; give all, or names"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(ARGUMENTS + STUDY_ARGUMENTS))
def test_bad_argument(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has what the others lack")
def test_device_of_another_kind_of_machine(inputs: Path) -> None:
    refused(["validate", "--device", "mps"], REFUSED, "--device mps is not available on this machine")


USAGE: Rows = [
    # what the parser itself refuses
    ("unknown command", "frobnicate", "frobnicate"),
    ("unknown option", "validate --frobnicate", "--frobnicate"),
    ("option without its value", "validate --dataset", "--dataset"),
    ("second model", "validate resnet20 resnet32", "resnet32"),
    ("batch size as a word", "validate --batch-size many", "--batch-size"),
    ("batch size with a point", "validate --batch-size 2.5", "--batch-size"),
    ("workers as a word", "validate -j all", "--workers"),
    ("seed as a word", "validate --seed now", "--seed"),
    ("gpu as a word", "validate --gpu first", "--gpu"),
    ("age as a word", "cache --clear --older-than week", "--older-than"),
    ("negative age", "cache --clear --older-than -1", "--older-than"),
    ("output for a list", "models --output list.json", "--output"),
    ("essential --repeats many", "essential --repeats many", "--repeats"),
    ("essential --repeats 2.5", "essential --repeats 2.5", "--repeats"),
    ("essential --controls many", "essential --controls many", "--controls"),
    ("selectivity --fraction half", "selectivity --fraction half", "--fraction"),
    ("sweep --max-drop much", "sweep --max-drop much", "--max-drop"),
    ("mutual-info --num-features some", "mutual-info --num-features some", "--num-features"),
    ("essential --csg", "essential --csg", "--csg"),
    ("selectivity --csg x", "selectivity --csg x", "--csg"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(USAGE))
def test_wrong_usage(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    usage_error(words(line, material), *fragments)


# --- layers -----------------------------------------------------------------------------------------------------------


LAYERS: Rows = [
    ("convolution", "selectivity --layers conv1", "'conv1' has negative outputs"),
    ("normalisation", "selectivity --layers layer3.2.bn2", "'layer3.2.bn2' has negative outputs"),
    ("head", "selectivity --layers linear", "'linear' has negative outputs"),
    ("second is negative", "selectivity --layers layer3.2,bn1", "'bn1' has negative outputs"),
    ("all and a negative one", "selectivity --layers all,conv1", "'conv1' has negative outputs"),
    ("all and an unknown one", "selectivity --layers nowhere,all", "no layer 'nowhere'"),
    ("unknown", "selectivity --layers nowhere", "no layer 'nowhere'"),
    ("second is unknown", "selectivity --layers layer3.2,layer3.9", "no layer 'layer3.9'"),
    ("all in capitals", "selectivity --layers ALL", "no layer 'ALL'"),
    ("no third use", "selectivity networks:Twice --dataset digits --layers relu#3", "no layer 'relu#3'"),
    ("pair", "selectivity networks:pairs --dataset digits --layers beside", "'beside' yields a tuple"),
    (
        "no row per image",
        "selectivity networks:pieces --dataset digits --layers beside",
        "'beside' yields values of shape (144, 32, 32) for 48 images, not a row for each",
    ),
    (
        "no channels",
        "selectivity networks:spectrum --dataset digits --layers beside",
        "'beside' yields values of shape (3, 32, 32), and it cannot be told which axis counts filters",
    ),
    ("no unit, no ReLU", "selectivity networks:without_relu --dataset digits", "neither residual units nor ReLU"),
    ("no stem", "selectivity networks:without_relu --dataset digits --layers stem", "no layer 'stem'"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(LAYERS))
def test_bad_layer(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)
