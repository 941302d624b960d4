"""Files that are copied into exports: schemas, a Verilog test bench, a C header and a C reader."""
