#!/usr/bin/env python3
"""Turns the grid data of the PyPI package codecarbon 3.3.2 into the tables beside this file.

    pip download --no-deps codecarbon==3.3.2
    python3 extract.py codecarbon-3.3.2-py3-none-any.whl     (or a site-packages folder)

Deterministic: the same package gives the same bytes. Rewrites country.csv and region.csv.
"""
import csv
import io
import json
import pathlib
import sys
import zipfile

VERSION = "3.3.2"
MIX = "codecarbon/data/private_infra/global_energy_mix.json"
IMPACT = "codecarbon/data/cloud/impact.csv"

# ISO 3166-1 alpha-3:alpha-2 of every country of the energy mix: single facts.
ALPHA2 = """
ABW:AW AFG:AF AGO:AO ALB:AL ARE:AE ARG:AR ARM:AM ASM:AS ATG:AG AUS:AU AUT:AT AZE:AZ BDI:BI BEL:BE BEN:BJ
BFA:BF BGD:BD BGR:BG BHR:BH BHS:BS BIH:BA BLR:BY BLZ:BZ BMU:BM BOL:BO BRA:BR BRB:BB BRN:BN BTN:BT BWA:BW
CAF:CF CAN:CA CHE:CH CHL:CL CHN:CN CIV:CI CMR:CM COD:CD COG:CG COK:CK COL:CO COM:KM CPV:CV CRI:CR CUB:CU
CYM:KY CYP:CY CZE:CZ DEU:DE DJI:DJ DMA:DM DNK:DK DOM:DO DZA:DZ ECU:EC EGY:EG ERI:ER ESH:EH ESP:ES EST:EE
ETH:ET FIN:FI FJI:FJ FLK:FK FRA:FR FRO:FO GAB:GA GBR:GB GEO:GE GHA:GH GIB:GI GIN:GN GLP:GP GMB:GM GNB:GW
GNQ:GQ GRC:GR GRD:GD GRL:GL GTM:GT GUF:GF GUM:GU GUY:GY HKG:HK HND:HN HRV:HR HTI:HT HUN:HU IDN:ID IND:IN
IRL:IE IRN:IR IRQ:IQ ISL:IS ISR:IL ITA:IT JAM:JM JOR:JO JPN:JP KAZ:KZ KEN:KE KGZ:KG KHM:KH KIR:KI KNA:KN
KOR:KR KWT:KW LAO:LA LBN:LB LBR:LR LBY:LY LCA:LC LKA:LK LSO:LS LTU:LT LUX:LU LVA:LV MAC:MO MAR:MA MDA:MD
MDG:MG MDV:MV MEX:MX MKD:MK MLI:ML MLT:MT MMR:MM MNE:ME MNG:MN MOZ:MZ MRT:MR MSR:MS MTQ:MQ MUS:MU MWI:MW
MYS:MY NAM:NA NCL:NC NER:NE NGA:NG NIC:NI NLD:NL NOR:NO NPL:NP NRU:NR NZL:NZ OMN:OM PAK:PK PAN:PA PER:PE
PHL:PH PNG:PG POL:PL PRI:PR PRK:KP PRT:PT PRY:PY PSE:PS PYF:PF QAT:QA REU:RE ROU:RO RUS:RU RWA:RW SAU:SA
SDN:SD SEN:SN SGP:SG SHN:SH SLB:SB SLE:SL SLV:SV SOM:SO SPM:PM SRB:RS SSD:SS STP:ST SUR:SR SVK:SK SVN:SI
SWE:SE SWZ:SZ SYC:SC SYR:SY TCA:TC TCD:TD TGO:TG THA:TH TJK:TJ TKM:TM TLS:TL TON:TO TTO:TT TUN:TN TUR:TR
TWN:TW TZA:TZ UGA:UG UKR:UA URY:UY USA:US UZB:UZ VCT:VC VEN:VE VGB:VG VIR:VI VNM:VN VUT:VU WSM:WS YEM:YE
ZAF:ZA ZMB:ZM ZWE:ZW
"""

# Regions for which the package has no intensity of their own, and the country they stand in: single facts, published by
# the providers. Their intensity is the country's.
PLACES = {
    "aws": """
us-east-1:USA us-east-2:USA us-west-1:USA us-west-2:USA us-gov-east-1:USA us-gov-west-1:USA af-south-1:ZAF ap-east-1:HKG ap-south-1:IND ap-south-2:IND ap-northeast-1:JPN ap-northeast-2:KOR ap-northeast-3:JPN ap-southeast-1:SGP ap-southeast-2:AUS ap-southeast-3:IDN ap-southeast-4:AUS ca-central-1:CAN ca-west-1:CAN cn-north-1:CHN cn-northwest-1:CHN eu-central-1:DEU eu-central-2:CHE eu-north-1:SWE eu-south-1:ITA eu-south-2:ESP
eu-west-1:IRL eu-west-2:GBR eu-west-3:FRA il-central-1:ISR me-central-1:ARE me-south-1:BHR sa-east-1:BRA
""",
    "azure": """
australiacentral:AUS australiaeast:AUS australiasoutheast:AUS belgiumcentral:BEL brazilsouth:BRA
brazilsoutheast:BRA canadacentral:CAN canadaeast:CAN centralindia:IND centralus:USA eastasia:HKG eastus:USA
eastus2:USA francecentral:FRA francesouth:FRA germanynorth:DEU germanywestcentral:DEU israelcentral:ISR
italynorth:ITA japaneast:JPN japanwest:JPN koreacentral:KOR koreasouth:KOR mexicocentral:MEX
newzealandnorth:NZL northcentralus:USA northeurope:IRL norwayeast:NOR norwaywest:NOR polandcentral:POL
qatarcentral:QAT southafricanorth:ZAF southafricawest:ZAF southcentralus:USA southeastasia:SGP southindia:IND
spaincentral:ESP swedencentral:SWE switzerlandnorth:CHE switzerlandwest:CHE uaecentral:ARE uaenorth:ARE
uksouth:GBR ukwest:GBR westcentralus:USA westeurope:NLD westindia:IND westus:USA westus2:USA westus3:USA
""",
}


def opener(place):
    """A function from a path in the package to its text."""
    if place.is_dir():
        return lambda path: (place / path).read_text(encoding="utf-8-sig")
    wheel = zipfile.ZipFile(place)
    return lambda path: wheel.read(path).decode("utf-8-sig")


def pairs(text):
    return [pair.split(":") for pair in text.split()]


def write(name, credit, columns, rows):
    text = io.StringIO()
    for line in credit:
        text.write(f"# {line}\n")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(columns)
    out.writerows(sorted(rows))
    (pathlib.Path(__file__).parent / name).write_text(text.getvalue(), encoding="utf-8")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: extract.py WHEEL_OR_SITE_PACKAGES")
    read = opener(pathlib.Path(sys.argv[1]))
    alpha2 = dict(pairs(ALPHA2))
    countries = [
        (iso, alpha2[iso], row["country_name"], row["year"], row["carbon_intensity"])
        for iso, row in json.loads(read(MIX)).items()
        if row.get("carbon_intensity") is not None
    ]
    write(
        "country.csv",
        [
            "Yearly carbon intensity of electricity, newest year of each country; average production, life-cycle factors.",
            "Credit: Ember; Energy Institute; processed by Our World in Data, CC BY 4.0. Taken from the PyPI package",
            f"codecarbon {VERSION} (MIT), global_energy_mix.json, by extract.py. World: the table has no such row.",
        ],
        ["alpha3", "alpha2", "name", "year", "g_co2e_per_kwh"],
        countries,
    )
    known = {country[0] for country in countries}
    regions = [
        (row["provider"].strip().lower(), row["region"].strip().lower(), row["countryIsoCode"], row["impact"].strip())
        for row in csv.DictReader(io.StringIO(read(IMPACT)))
    ]
    have = {region[:2] for region in regions}
    for provider, text in PLACES.items():
        regions += [(provider, region, iso, "") for region, iso in pairs(text) if (provider, region) not in have]
    missing = sorted({region[2] for region in regions} - known)
    if missing:
        sys.exit(f"countries of regions without an intensity: {missing}")
    write(
        "region.csv",
        [
            "Grid carbon intensity of cloud regions; average consumption, life-cycle factors; empty: use the country's.",
            "Credit: Google Cloud (cloud.google.com/sustainability/region-carbon), taken from the PyPI package",
            f"codecarbon {VERSION} (MIT), cloud/impact.csv, by extract.py. The country of a region is a single fact.",
        ],
        ["provider", "region", "alpha3", "g_co2e_per_kwh"],
        regions,
    )


if __name__ == "__main__":
    main()
