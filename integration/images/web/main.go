// Command web is a small HTTP server: the demo pod of `make up`, and a container for tests that need a page.
//
// It answers with the pod's own host name and addresses, so that a reader sees which pod answered, and logs a line per request.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "address to serve on")
	greeting := flag.String("greeting", "Hello from a pod that shimd runs.", "first line of the page")
	flag.Parse()
	log.SetFlags(0) // the runtime's log has the time already
	if err := serve(*listen, *greeting); err != nil {
		log.Fatalf("serving on %s: %v", *listen, err)
	}
}

func serve(listen, greeting string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr:              listen,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
			page(w, greeting)
		}),
	}
	go func() {
		<-ctx.Done()
		deadline, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(deadline); err != nil {
			log.Printf("shutting down: %v", err)
		}
	}()
	log.Printf("serving on %s", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func page(w http.ResponseWriter, greeting string) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown: " + err.Error()
	}
	fmt.Fprintf(w, "%s\nhost name: %s\n", greeting, host)
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		fmt.Fprintf(w, "addresses: %v\n", err)
		return
	}
	for _, a := range addresses {
		fmt.Fprintf(w, "address: %s\n", a)
	}
}
