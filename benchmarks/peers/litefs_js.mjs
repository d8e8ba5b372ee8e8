// litefs-js's own package before an application that says hello. Arguments: where it is installed, and the port.
import http from 'node:http'
import { pathToFileURL } from 'node:url'

const [, , directory, port] = process.argv
const load = (file) => import(pathToFileURL(`${directory}/node_modules/litefs-js/dist/${file}`))
const { handleTransactionalConsistency } = await load('http.js')
console.error = () => {}

http
  .createServer(async (request, response) => {
    if (await handleTransactionalConsistency(request, response)) return
    response.writeHead(200, { 'content-length': 5 })
    response.end('hello')
  })
  .listen(Number(port), '127.0.0.1')
