// Command server stands in for nginx and httpd in test images, by the name it is run under.
//
// It has what the tests look at and no more: it serves the document root, writes the pid file, names its first process
// "nginx: master process", and as httpd prints the command line at the start as Apache does.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const masterTitle = "nginx: master process /usr/sbin/nginx"

// site is what one of the two servers is known by.
type site struct {
	config  string // read for a "listen PORT;" line
	root    string
	pidFile string
}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	s := site{config: "/etc/nginx/conf.d/default.conf", root: "/usr/share/nginx/html", pidFile: "/var/run/nginx.pid"}
	switch name := filepath.Base(exe); {
	case name == "httpd":
		s = site{root: "/usr/local/apache2/htdocs", pidFile: "/usr/local/apache2/logs/httpd.pid"}
		log.Printf("[core:notice] AH00094: Command line: 'httpd -D FOREGROUND'")
	case os.Args[0] != masterTitle:
		// The command line that ps shows can only be set by running the program again.
		return fmt.Errorf("taking the title of the master process: %w", syscall.Exec(exe, []string{masterTitle}, os.Environ()))
	}
	return s.serve()
}

func (s site) serve() error {
	port, err := listenPort(s.config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.pidFile, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return fmt.Errorf("writing the pid file: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGWINCH)
	defer stop()
	files := http.FileServer(http.Dir(s.root))
	server := &http.Server{
		Addr:              ":" + port,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("%s - - %q", r.RemoteAddr, r.Method+" "+r.URL.Path)
			files.ServeHTTP(w, r)
		}),
	}
	go func() {
		<-ctx.Done()
		_ = server.Close() // ends ListenAndServe below, which reports
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on port %s: %w", port, err)
	}
	return nil
}

// listenPort finds the port in an nginx configuration, as far as the test images use one.
func listenPort(config string) (string, error) {
	if config == "" {
		return "80", nil
	}
	f, err := os.Open(config)
	if err != nil {
		return "", fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if port, found := strings.CutPrefix(strings.TrimSpace(lines.Text()), "listen "); found {
			return strings.TrimSuffix(strings.TrimSpace(port), ";"), nil
		}
	}
	return "", fmt.Errorf("reading %s: no listen line (%w)", config, errors.Join(lines.Err(), os.ErrInvalid))
}
