package main

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command's flags.
type options struct {
	caddy, root, out string
	floor            string // caddy binary with the least that makes a tunnel; built if it is needed
	before           string // caddy binary with an earlier build of the module
	profiles         string // folder; measure nothing if there is one
	growth           []int  // measure nothing else if there are any
	slow             int    // tunnels with slow peers; measure nothing else if there are any
	storm            int    // clients that come at once; measure nothing else if there are any
	beside           []int  // numbers of idle tunnels beside which others are measured, and nothing else
	fleet            int    // upstreams that operators ask about; measure nothing else if there are any
	spread           bool   // print the least and the most of all repetitions, too
	self, quick      bool
	runs             int
	rowFilter        *regexp.Regexp
	peerFilter       *regexp.Regexp
	scale            scale
}

// scale says how much load the measurements put on, and for how long.
type scale struct {
	tunnels       []int         // numbers of idle plain tunnels, ascending
	tlsTunnels    []int         // numbers of idle TLS tunnels, ascending
	streamTunnels int           // number of idle tunnels over HTTP/2 and HTTP/3
	streamFrame   int           // frame size of their bulk transfers
	settle        time.Duration // between the last connect and reading memory
	longSettle    time.Duration // the same for the second reading with TLS; 0 for none
	watch         time.Duration // how long the CPU use of idle tunnels is watched
	echoes        int           // round trips of the CPU measurement, at most
	echoTime      time.Duration // its duration, at most
	frames        []int         // frame sizes of plain bulk transfers
	tlsFrames     []int         // frame sizes of bulk transfers with TLS
	bulkBytes     int64
	bulkTunnels   int
	connects      int
	latencyTime   time.Duration
	latencyRuns   int // repetitions, at least
	profile       time.Duration
}

// fullScale is what the flags leave alone of a comparison that counts.
var fullScale = scale{
	streamTunnels: 1000, streamFrame: 64 << 10,
	echoes: 100_000, echoTime: 3 * time.Second,
	connects: 2000, latencyTime: 5 * time.Second, latencyRuns: 5,
	profile: 10 * time.Second,
}

// quickScale is small enough for a smoke test.
var quickScale = scale{
	tunnels: []int{50, 150}, tlsTunnels: []int{50}, streamTunnels: 50, streamFrame: 64 << 10,
	settle: 300 * time.Millisecond, longSettle: 600 * time.Millisecond, watch: 500 * time.Millisecond,
	echoes: 5000, echoTime: 500 * time.Millisecond,
	frames: []int{64 << 10, 1 << 20}, tlsFrames: []int{64 << 10},
	bulkBytes: 64 << 20, bulkTunnels: 2,
	connects: 100, latencyTime: time.Second, latencyRuns: 1,
	profile: time.Second,
}

// texts are the flags that need parsing.
type texts struct {
	rows, peers         string
	tunnels, tlsTunnels string
	growth, beside      string
	frames, tlsFrames   string
	bulkMiB             int64
}

func parseFlags(args []string) (options, error) {
	o := options{scale: fullScale}
	var t texts
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.caddy, "caddy", "", "caddy `binary` with the module; built from -root if empty")
	flags.StringVar(&o.before, "before", "", "caddy `binary` with an earlier build of the module: one more peer")
	flags.StringVar(&o.root, "root", "..", "`folder` of the module's source")
	flags.StringVar(&o.out, "out", "", "`file` to append the table to")
	flags.StringVar(&o.profiles, "profiles", "",
		"`folder` for a CPU profile of websocket_proxy for each CPU row, and measure nothing")
	flags.StringVar(&t.growth, "growth", "",
		"`numbers` of idle plain tunnels: print the memory of websocket_proxy at each, and measure nothing else")
	flags.IntVar(&o.slow, "slow", 0,
		"`number` of tunnels with peers that read slowly: print their memory, and measure nothing else")
	flags.IntVar(&o.storm, "storm", 0,
		"`number` of clients that all come at once: print how long it takes until they are served, and measure nothing else")
	flags.StringVar(&t.beside, "beside", "",
		"`numbers` of idle plain tunnels: print what messages and connects cost beside them, and measure nothing else")
	flags.IntVar(&o.fleet, "fleet", 0,
		"`number` of upstreams: print how long requests of operators take, with the last of -tunnels, and measure nothing else")
	flags.IntVar(&o.runs, "runs", 3, "repetitions, whose medians are printed")
	flags.BoolVar(&o.spread, "spread", false, "also print the least and the most of the repetitions")
	flags.StringVar(&t.rows, "rows", ".", "`regexp` of the rows to measure")
	flags.StringVar(&t.peers, "peers", ".", "`regexp` of the peers to compare with")
	flags.StringVar(&t.frames, "frames", "4096,65536,1048576", "frame `sizes` of plain bulk rows in bytes")
	flags.StringVar(&t.tlsFrames, "tls-frames", "65536", "frame `sizes` of bulk rows with TLS")
	flags.Int64Var(&t.bulkMiB, "bulk-mib", 2048, "MiB that a bulk measurement moves")
	flags.IntVar(&o.scale.bulkTunnels, "bulk-tunnels", 4, "tunnels that a bulk measurement uses")
	flags.StringVar(&t.tunnels, "tunnels", "3000,9000", "`numbers` of idle plain tunnels, at most 9500")
	flags.StringVar(&t.tlsTunnels, "tls-tunnels", "3000", "`numbers` of idle TLS tunnels, at most 9500")
	flags.DurationVar(&o.scale.settle, "settle", 6*time.Second, "wait before reading memory")
	flags.DurationVar(&o.scale.longSettle, "long-settle", 150*time.Second,
		"wait before reading memory with TLS again; 0 for not again")
	flags.DurationVar(&o.scale.watch, "watch", 45*time.Second,
		"how long the CPU use of idle tunnels is watched; 0 for not at all")
	flags.BoolVar(&o.self, "self", false, "compare reverse_proxy with itself, to see the noise")
	flags.BoolVar(&o.quick, "quick", false, "one small run: whether it works, not how well")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := o.parse(t); err != nil {
		return o, err
	}
	if o.quick {
		o.runs = 1
		o.scale = quickScale
	}
	return o, o.check()
}

// parse fills what t has the texts of.
func (o *options) parse(t texts) (err error) {
	if o.rowFilter, err = regexp.Compile(t.rows); err != nil {
		return fmt.Errorf("parsing -rows: %w", err)
	}
	if o.peerFilter, err = regexp.Compile(t.peers); err != nil {
		return fmt.Errorf("parsing -peers: %w", err)
	}
	s := &o.scale
	s.bulkBytes = t.bulkMiB << 20
	if s.frames, err = parseSizes(t.frames, maxFrame); err != nil {
		return fmt.Errorf("parsing -frames: %w", err)
	}
	if s.tlsFrames, err = parseSizes(t.tlsFrames, maxFrame); err != nil {
		return fmt.Errorf("parsing -tls-frames: %w", err)
	}
	if s.tunnels, err = parseAscending(t.tunnels, maxTunnels); err != nil {
		return fmt.Errorf("parsing -tunnels: %w", err)
	}
	if s.tlsTunnels, err = parseAscending(t.tlsTunnels, maxTunnels); err != nil {
		return fmt.Errorf("parsing -tls-tunnels: %w", err)
	}
	if t.growth != "" {
		if o.growth, err = parseAscending(t.growth, maxTunnels); err != nil {
			return fmt.Errorf("parsing -growth: %w", err)
		}
	}
	if t.beside != "" {
		if o.beside, err = parseAscending(t.beside, maxTunnels-echoTunnels); err != nil {
			return fmt.Errorf("parsing -beside: %w", err)
		}
	}
	return nil
}

func (o *options) check() error {
	s := o.scale
	switch {
	case o.tasks() > 1:
		return errors.New("-growth, -slow, -storm, -beside, -fleet and -profiles exclude each other")
	case o.storm != 0 && o.self:
		return errors.New("-storm excludes -self")
	case o.fleet < 0 || o.fleet > 2000:
		return errors.New("-fleet must be at most 2000")
	case o.storm < 0 || o.storm > maxTunnels:
		return fmt.Errorf("-storm must be at most %d", maxTunnels)
	case o.slow < 0 || o.slow > 1000:
		return errors.New("-slow must be at most 1000")
	case o.runs < 1:
		return errors.New("-runs must be at least 1")
	case s.bulkTunnels < 1 || s.bulkTunnels > 100:
		return errors.New("-bulk-tunnels must be between 1 and 100")
	case s.watch < 0:
		return errors.New("-watch must not be negative")
	case s.longSettle != 0 && s.longSettle <= s.settle:
		return errors.New("-long-settle must be longer than -settle, or 0")
	}
	for _, size := range slices.Concat(s.frames, s.tlsFrames, []int{streamBulkShare * s.streamFrame, shapeBulkShare * largestShape}) {
		if s.bulkBytes/int64(s.bulkTunnels) < int64(size) {
			return fmt.Errorf("-bulk-mib is too small for frames of %d bytes", size)
		}
	}
	return nil
}

// tasks returns how many flags there are that want nothing else to be measured.
func (o *options) tasks() int {
	n := 0
	for _, wanted := range []bool{
		o.growth != nil, o.slow != 0, o.storm != 0, o.beside != nil, o.fleet != 0, o.profiles != "",
	} {
		if wanted {
			n++
		}
	}
	return n
}

// parseAscending parses sizes of which each is larger than the one before.
func parseAscending(list string, most int) ([]int, error) {
	sizes, err := parseSizes(list, most)
	for i := 1; i < len(sizes); i++ {
		if sizes[i] <= sizes[i-1] {
			return nil, fmt.Errorf("%d does not exceed the %d before it", sizes[i], sizes[i-1])
		}
	}
	return sizes, err
}

// parseSizes parses numbers from 1 to most, separated by commas.
func parseSizes(list string, most int) ([]int, error) {
	var sizes []int
	for item := range strings.SplitSeq(list, ",") {
		size, err := strconv.Atoi(item)
		if err != nil {
			return nil, err
		}
		if size < 1 || size > most {
			return nil, fmt.Errorf("%d is not between 1 and %d", size, most)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}
