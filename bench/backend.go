package main

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// backendMode as the first of two arguments makes this program as many backends as
	// the second one says.
	backendMode  = "-as-backends"
	backendCount = 2

	handshakeGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Paths the backends serve. Sizes come as query parameters.
const (
	echoPath   = "/echo"   // returns every message
	sinkPath   = "/sink"   // answers once, when "bytes" bytes have arrived
	sourcePath = "/source" // sends "bytes" bytes in frames of "frame" at the first message
	busyPath   = "/busy"   // is echoPath, but the first backend answers 503
	slowPath   = "/slow"   // reads "bytes" bytes now and then
	pushPath   = "/push"   // sends messages of mixed sizes
)

// backends is the process that serves all backends, apart from the load
// generator so that neither disturbs the other's memory.
type backends struct {
	cmd   *exec.Cmd
	stdin io.Closer // the process ends when this is closed, or we die
	addrs []string
}

// startBackends runs this program again as backends.
func startBackends(count int) (*backends, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, backendMode, strconv.Itoa(count)) //nolint:gosec,noctx // ourselves; ends with its input
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the backends: %w", err)
	}
	b := &backends{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.stop()
		return nil, fmt.Errorf("reading the backends' addresses: %w", err)
	}
	b.addrs = strings.Fields(line)
	return b, nil
}

// stop ends the process and waits for it.
func (b *backends) stop() {
	_ = b.stdin.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = b.cmd.Process.Kill() })
	defer timer.Stop()
	_ = b.cmd.Wait() // its exit status says nothing
}

// runBackends serves until standard input ends.
func runBackends(ctx context.Context, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	addrs := make([]string, n)
	for i := range addrs {
		listener, err := listen(ctx)
		if err != nil {
			return err
		}
		addrs[i] = listener.Addr().String()
		go acceptLoop(listener, i == 0)
	}
	fmt.Println(strings.Join(addrs, " "))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func acceptLoop(listener net.Listener, busy bool) {
	d := newDesk()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "backend:", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		go serveBackend(conn, busy, d)
	}
}

// serveBackend upgrades one connection and does what its path says. Errors end
// the connection; the client at its other end is the one that reports them.
func serveBackend(conn net.Conn, busy bool, d *desk) {
	defer closeQuietly(conn)
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if busy && req.URL.Path == busyPath {
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		return
	}
	key := req.Header.Get("Sec-WebSocket-Key")
	if req.URL.Path == stormPath {
		d.serveStorm(conn, r, key)
		return
	}
	if err := answerHandshake(conn, key); err != nil {
		return
	}
	total, _ := strconv.ParseInt(req.FormValue("bytes"), 10, 64)
	frame, _ := strconv.Atoi(req.FormValue("frame"))

	switch req.URL.Path {
	case sinkPath:
		r = bufio.NewReaderSize(r, bulkBuffer)
		err = serveSink(conn, r, total)
	case sourcePath:
		err = serveSource(conn, r, total, frame)
	case slowPath:
		trickle(r, total)
		return
	case pushPath:
		push(conn, nil)
		return
	}
	if err == nil {
		_ = serveEcho(conn, r)
	}
}

func answerHandshake(conn net.Conn, key string) error {
	sum := sha1.Sum([]byte(key + handshakeGUID)) //nolint:gosec // RFC 6455 asks for it
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return err
}

// echoBuffers hold payloads and frames only while a message is under way.
var echoBuffers = sync.Pool{New: func() any { return new([2][]byte) }}

// serveEcho returns every message until the closing handshake is done.
func serveEcho(conn net.Conn, r *bufio.Reader) error {
	for {
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		if err := echoOne(conn, r, h); err != nil {
			return err
		}
	}
}

func echoOne(conn net.Conn, r *bufio.Reader, h frameHeader) error {
	buffers := echoBuffers.Get().(*[2][]byte)
	defer echoBuffers.Put(buffers)

	var err error
	if buffers[0], err = readPayload(r, h, buffers[0]); err != nil {
		return err
	}
	opcode := h.opcode
	switch opcode {
	case opPing:
		opcode = opPong
	case opPong:
		return nil
	}
	buffers[1] = appendFrame(buffers[1][:0], opcode, nil, buffers[0])
	if _, err := conn.Write(buffers[1]); err != nil {
		return err
	}
	if opcode == opClose {
		return io.EOF
	}
	return nil
}

// serveSink swallows messages and answers when total bytes have arrived.
func serveSink(conn net.Conn, r *bufio.Reader, total int64) error {
	for total > 0 {
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		if h.opcode != opBinary {
			return fmt.Errorf("got unexpected opcode %#x", h.opcode)
		}
		if _, err := io.CopyN(io.Discard, r, h.length); err != nil {
			return err
		}
		total -= h.length
	}
	_, err := conn.Write(appendFrame(nil, opText, nil, []byte("received")))
	return err
}

// serveSource waits for a message and then sends total bytes.
func serveSource(conn net.Conn, r *bufio.Reader, total int64, size int) error {
	h, err := readHeader(r)
	if err != nil {
		return err
	}
	if _, err := readPayload(r, h, nil); err != nil {
		return err
	}
	if size <= 0 {
		return errors.New("no frame size given")
	}
	frame := appendFrame(nil, opBinary, nil, make([]byte, size))
	for ; total > 0; total -= int64(size) {
		if _, err := conn.Write(frame); err != nil {
			return err
		}
	}
	return nil
}
