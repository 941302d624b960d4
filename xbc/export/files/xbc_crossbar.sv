// One crossbar: ROWS x COLUMNS cells of BITS bits.  One cell is written per clock; a row is read at once.
// A row is one word, column 0 in its most significant bits.
module xbc_crossbar #(
    parameter ROWS = 128,
    parameter COLUMNS = 8,
    parameter BITS = 1
) (
    input  wire                      clock,
    input  wire                      write,
    input  wire [15:0]               row,
    input  wire [15:0]               column,
    input  wire [BITS-1:0]           level,
    output wire [COLUMNS*BITS-1:0]   cells_of_row
);
    reg [COLUMNS*BITS-1:0] cells [0:ROWS-1];

    always @(posedge clock)
        if (write) cells[row][(COLUMNS - 1 - column) * BITS +: BITS] <= level;

    assign cells_of_row = cells[row];
endmodule
