// Command nonewprivs prints its effective user ID. In its image it is setuid root, so what it prints tells whether
// no_new_privs was set: the test image that stands for e2e-test-images/nonewprivs.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
}
