// Runs an exported program on xbc_crossbar, crossbar by crossbar, and compares every row after every load with
// the expected image.  Run it inside the export's directory:
//   iverilog -g2012 -s xbc_testbench -o bench.vvp xbc_crossbar.sv xbc_testbench.sv && vvp -n bench.vvp
`include "xbc_params.svh"

module xbc_testbench;
    localparam WIDTH = `XBC_COLUMNS * `XBC_BITS;

    reg [95:0]      index  [0:`XBC_CROSSBARS-1];                 // crossbar, loads, writes
    reg [63:0]      loads  [0:`XBC_MOST_LOADS-1];                // load id, writes
    reg [39:0]      writes [0:`XBC_MOST_WRITES-1];               // row, column, level
    reg [WIDTH-1:0] images [0:`XBC_MOST_LOADS*`XBC_ROWS-1];
    reg [WIDTH-1:0] start  [0:`XBC_ROWS-1];

    reg clock = 0;
    reg write = 0;
    reg [15:0] row = 0, column = 0;
    reg [`XBC_BITS-1:0] level = 0;
    wire [WIDTH-1:0] cells_of_row;

    xbc_crossbar #(.ROWS(`XBC_ROWS), .COLUMNS(`XBC_COLUMNS), .BITS(`XBC_BITS)) dut (
        .clock(clock), .write(write), .row(row), .column(column), .level(level), .cells_of_row(cells_of_row));

    integer b, j, w, r, at, total_loads, total_writes;
    reg [31:0] crossbar, load_count, write_count;
    reg [8*64-1:0] name;

    task tick;
        begin #5 clock = 1; #5 clock = 0; end
    endtask

    task run(input [8*6-1:0] inference, input preload);
        begin
            $sformat(name, "%0s/index.memh", inference);
            $readmemh(name, index);
            crossbar = index[b][95:64]; load_count = index[b][63:32]; write_count = index[b][31:0];
            $sformat(name, "%0s/c%06d.start.memh", inference, crossbar);
            $readmemh(name, start);
            if (preload) for (r = 0; r < `XBC_ROWS; r = r + 1) dut.cells[r] = start[r];
            else check(0, -1);
            $sformat(name, "%0s/c%06d.loads.memh", inference, crossbar);
            $readmemh(name, loads, 0, load_count - 1);
            $sformat(name, "%0s/c%06d.images.memh", inference, crossbar);
            $readmemh(name, images, 0, load_count * `XBC_ROWS - 1);
            if (write_count != 0) begin
                $sformat(name, "%0s/c%06d.writes.memh", inference, crossbar);
                $readmemh(name, writes, 0, write_count - 1);
            end
            at = 0;
            for (j = 0; j < load_count; j = j + 1) begin
                for (w = 0; w < loads[j][31:0]; w = w + 1) begin
                    {row, column} = writes[at][39:8];
                    level = writes[at][`XBC_BITS-1:0];
                    write = 1; tick; write = 0;
                    at = at + 1;
                end
                check(j * `XBC_ROWS, loads[j][63:32]);
                total_loads = total_loads + 1;
            end
            if (at != write_count) begin
                $display("FAIL crossbar %0d: %0d writes done of %0d", crossbar, at, write_count);
                $fatal(1);
            end
            total_writes = total_writes + at;
        end
    endtask

    task check(input integer first_word, input integer load);  // load -1: the start of a steady inference
        reg [WIDTH-1:0] wanted;
        begin
            for (r = 0; r < `XBC_ROWS; r = r + 1) begin
                row = r;
                #1 wanted = load < 0 ? start[r] : images[first_word + r];
                if (cells_of_row !== wanted) begin
                    $display("FAIL crossbar %0d load %0d row %0d: %h, expected %h",
                             crossbar, load, r, cells_of_row, wanted);
                    $fatal(1);
                end
            end
        end
    endtask

    initial begin
        total_loads = 0; total_writes = 0;
        for (b = 0; b < `XBC_CROSSBARS; b = b + 1) begin
            if (`XBC_FIRST) run("first", 1);
            if (`XBC_STEADY) run("steady", !`XBC_WHOLE);
        end
        $display("PASS crossbars=%0d loads=%0d writes=%0d", `XBC_CROSSBARS, total_loads, total_writes);
        $finish;
    end
endmodule
